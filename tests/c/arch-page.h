#pragma once

// docs/models.md: its table of architectures, what is not looked at, and what the page says against what was found.

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

struct row {
    std::string kind;   // what its attention is
    std::string evict;  // "yes", or why not
    std::string select; // the same
    std::string dense;  // the op for full attention

    std::string text() const { return kind + "\n" + evict + "\n" + select + "\n" + dense + "\n"; }
};

// what is not looked at, and why
static const std::map<std::string, std::string> LEFT_OUT = {
    { "clip", "no language model" },
    { "gptj", "llama.cpp has the name only" },
    { "bert", "encoder" },
    { "nomic-bert", "encoder" },
    { "nomic-bert-moe", "encoder" },
    { "jina-bert-v2", "encoder" },
    { "jina-bert-v3", "encoder" },
    { "wavtokenizer-dec", "no language model" },
    { "rwkv6", "recurrent, without attention" },
    { "rwkv6qwen2", "recurrent, without attention" },
    { "rwkv7", "recurrent, without attention" },
    { "arwkv7", "recurrent, without attention" },
    { "gemma4-assistant", "a draft model, which reads another model's cache" },
    { "eagle3", "a draft model" },
    { "dflash", "a draft model" },
    { "qwen4exp", "its attention chooses tokens by a trained indexer" },
    { "deepseek4", "its attention chooses tokens by a trained indexer" },
    { "dots3note", "its attention chooses tokens by a trained indexer" },
    { "glm5-next", "its attention chooses tokens by a trained indexer" },
    { "plm", "llama.cpp itself aborts: the values have another shape than its cache takes" },
};

static const char * const BEGIN = "<!-- test-archs: begin -->\n";
static const char * const END   = "<!-- test-archs: end -->\n";

static std::string shorten(const std::string & arch, const std::string & why) {
    const std::string prefix = "the architecture " + arch + " is not covered: ";

    return why.compare(0, prefix.size(), prefix) == 0 ? why.substr(prefix.size()) : why;
}

static std::string make_line(const std::string & arch, const row & r) {
    if (r.evict.empty() && r.select.empty()) {
        const bool tried = r.kind.compare(0, 3, "not") != 0;
        return "| " + arch + " | | " + (tried ? "refused: " : "") + r.kind + " | | |\n";
    }
    if (r.evict != "yes" && r.evict == r.select) {
        return "| " + arch + " | " + r.kind + " | refused: " + shorten(arch, r.evict) + " | | |\n";
    }

    const auto cell = [&](const std::string & s) { return s == "yes" ? s : "refused: " + shorten(arch, s); };

    return "| " + arch + " | " + r.kind + " | " + cell(r.evict) + " | " + cell(r.select) + " | " + cell(r.dense) +
            " |\n";
}

static const char * const HEAD =
        "| architecture | attention | evict | select | full attention through our op |\n|---|---|---|---|---|\n";

// false: the page says something else than the table, or is none; write: the table is put there
static bool check_page(const char * page, const std::string & table, bool write) {
    std::ifstream     in(page);
    std::stringstream buf;
    buf << in.rdbuf();
    const std::string text = buf.str();

    const size_t i0 = text.find(BEGIN);
    const size_t i1 = text.find(END);
    if (i0 == std::string::npos || i1 == std::string::npos) {
        fprintf(stderr, "%s: needs the lines %s and %s\n", page, BEGIN, END);
        return false;
    }

    const std::string now = text.substr(0, i0) + BEGIN + "\n" + table + "\n" + text.substr(i1);

    if (write) {
        std::ofstream(page) << now;
    } else if (now != text) {
        fprintf(stderr, "%s is out of date; put the table there with: test-archs %s --write\n%s", page, page,
                table.c_str());
        return false;
    }

    return true;
}
