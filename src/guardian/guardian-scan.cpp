#include "guardian-scan.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace {

// What begins and ends a tool call where it is told from a text; "": it goes on to the end of the text.
struct tool_marker {
    const char * begin;
    const char * end;
};

const tool_marker TOOLS[] = {
    { "<tool_call>", "</tool_call>" },                                // Hermes, Qwen, GLM
    { "<function_call>", "</function_call>" },                        // Seed, older fine-tunes
    { "[TOOL_CALLS]", "" },                                           // Mistral
    { "<|python_tag|>", "" },                                         // Llama 3.1
    { "<|tool_call|>", "<|/tool_call|>" },                            // Phi-4; Granite, which ends with it
    { "<|tool_call_start|>", "<|tool_call_end|>" },                   // LFM2
    { "<|tool_call>", "<tool_call|>" },                               // Gemma 4
    { "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>" }, // Kimi
    { "<\xef\xbd\x9ctool\xe2\x96\x81"
      "calls\xe2\x96\x81"
      "begin\xef\xbd\x9c>",
            "<\xef\xbd\x9ctool\xe2\x96\x81"
            "calls\xe2\x96\x81"
            "end\xef\xbd\x9c>" },             // DeepSeek
    { "<|START_ACTION|>", "<|END_ACTION|>" }, // Command R
    { "<TOOLCALL>", "</TOOLCALL>" },          // Nemotron
    { " to=functions.", "" },                 // gpt-oss
};

// what a sentence ends with, and what may follow it
const char * const STOPS[]  = { ".", "!", "?", "\xe2\x80\xa6", "\xe3\x80\x82", "\xef\xbc\x81", "\xef\xbc\x9f",
    "\xe0\xa5\xa4", "\xd8\x9f", "\xdb\x94" }; // ... and those of Chinese, Hindi, Arabic, Urdu
const char * const CLOSES[] = { "\"", "'", ")", "]", "*", "\xe2\x80\x9d", "\xe2\x80\x99", "\xe3\x80\x8d" };

// bytes that lil_guardian_is_end() looks at, at most
const size_t N_END = 16;

bool ends_with(const char * text, size_t n, const char * end) {
    const size_t m = strlen(end);

    return n >= m && memcmp(text + n - m, end, m) == 0;
}

bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

// what a number or a literal is made of
bool is_word(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || c == 'E' || c == '+' || c == '-' || c == '.';
}

}

//
// places
//

bool lil_guardian_is_end(const std::string & text) {
    size_t n = text.size();

    while (n > 0 && (text[n - 1] == ' ' || text[n - 1] == '\t')) {
        n--;
    }
    if (n == 0) {
        return false;
    }
    if (text[n - 1] == '\n') {
        return true;
    }

    for (bool again = true; again;) {
        again = false;
        for (const char * close : CLOSES) {
            if (ends_with(text.data(), n, close)) {
                n -= strlen(close);
                again = true;
            }
        }
    }

    for (const char * stop : STOPS) {
        if (ends_with(text.data(), n, stop)) {
            return *stop != '.' || n < 2 || !is_digit(text[n - 2]);
        }
    }

    return false;
}

bool lil_guardian_is_partial(const std::string & text) {
    for (size_t i = 1; i <= 3 && i <= text.size(); i++) {
        const unsigned char c = (unsigned char) text[text.size() - i];

        if ((c & 0xc0) != 0x80) {
            return (c >= 0xf0 && c < 0xf8 && i < 4) || (c >= 0xe0 && c < 0xf0 && i < 3) ||
                    (c >= 0xc2 && c < 0xe0 && i < 2);
        }
    }

    return false;
}

//
// JSON
//

void lil_guardian_json::add(char c) {
    if (is_open() && take(c)) {
        return;
    }

    open.clear();
    if (c == '{' || c == '[') {
        open.assign(1, c);
        state = c == '{' ? FIRST_KEY : FIRST_VALUE;
    }
}

bool lil_guardian_json::close(char bracket) {
    if (open.back() != (bracket == '}' ? '{' : '[')) {
        return false;
    }
    open.pop_back();
    state = AFTER;

    return true;
}

// whether c may stand here
bool lil_guardian_json::take(char c) {
    switch (state) {
        case STRING: {
            if (c == '\\') {
                state = ESCAPE;
            } else if (c == '"') {
                state = is_key ? COLON : AFTER;
            }
            return (unsigned char) c >= 0x20;
        }
        case ESCAPE: {
            state = STRING;
            return strchr("\"\\/bfnrtu", c) != nullptr && c != '\0';
        }
        case WORD: {
            if (is_word(c)) {
                return true;
            }
            state = AFTER;
        } break;
        default: break;
    }

    if (is_space(c)) {
        return true;
    }

    switch (state) {
        case FIRST_KEY:
        case KEY:       {
            if (c == '}' && state == FIRST_KEY) {
                return close(c);
            }
            state  = STRING;
            is_key = true;
            return c == '"';
        }
        case COLON: {
            state = VALUE;
            return c == ':';
        }
        case AFTER: {
            if (c == '}' || c == ']') {
                return close(c);
            }
            state = open.back() == '{' ? KEY : VALUE;
            return c == ',';
        }
        default: break;
    }

    // a value
    if (c == ']' && state == FIRST_VALUE) {
        return close(c);
    }
    if (c == '{' || c == '[') {
        open.push_back(c);
        state = c == '{' ? FIRST_KEY : FIRST_VALUE;
        return true;
    }
    if (c == '"') {
        state  = STRING;
        is_key = false;
        return true;
    }
    state = WORD;

    return is_digit(c) || c == '-' || c == 't' || c == 'f' || c == 'n';
}

//
// the text
//

lil_guardian_scan::lil_guardian_scan(std::string begin, std::string end) :
    begin(std::move(begin)), end(std::move(end)), n_tail(N_END), thinking(this->begin.empty()) {
    n_tail = std::max({ n_tail, this->begin.size(), this->end.size() });
    for (const auto & tool : TOOLS) {
        n_tail = std::max({ n_tail, strlen(tool.begin), strlen(tool.end) });
    }
}

void lil_guardian_scan::clear() {
    tail.clear();
    thinking = begin.empty();
    tool_end = nullptr;
    json     = {};
}

bool lil_guardian_scan::ends_with(const std::string & marker) const {
    return !marker.empty() && ::ends_with(tail.data(), tail.size(), marker.c_str());
}

void lil_guardian_scan::add(const std::string & piece, bool generated) {
    for (const char c : piece) {
        // what is in front is cut now and then only
        if (tail.size() >= 4 * n_tail) {
            tail.erase(0, tail.size() - n_tail);
        }
        tail += c;

        if (!end.empty() && c == end.back() && (generated || !begin.empty()) && ends_with(end)) {
            thinking = false;
        }
        if (!begin.empty() && c == begin.back() && ends_with(begin)) {
            thinking = true;
        }
        if (!generated) {
            continue;
        }

        json.add(c);

        if (tool_end != nullptr) {
            const size_t n = strlen(tool_end);
            if (n > 0 && c == tool_end[n - 1] && ::ends_with(tail.data(), tail.size(), tool_end)) {
                tool_end = nullptr;
            }
            continue;
        }
        for (const auto & tool : TOOLS) {
            if (c == tool.begin[strlen(tool.begin) - 1] && ::ends_with(tail.data(), tail.size(), tool.begin)) {
                tool_end = tool.end;
            }
        }
    }
}
