#include "lil-notation.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <locale>
#include <sstream>

//
// words
//

std::string lil_quote(const std::string & word) {
    static const size_t MAX = 48;

    std::string res = "'";
    for (size_t i = 0; i < std::min(word.size(), MAX); i++) {
        const auto c = (unsigned char) word[i];
        if (c >= 0x20 && c < 0x7f) {
            res += (char) c;
            continue;
        }
        char hex[5];
        snprintf(hex, sizeof(hex), "\\x%02x", c);
        res += hex;
    }

    return res + (word.size() > MAX ? "...'" : "'");
}

static std::string lower(std::string s) {
    for (char & c : s) {
        c = (char) tolower((unsigned char) c);
    }

    return s;
}

// insertions, deletions, substitutions and swaps of neighbours that make b of a
static size_t distance(const std::string & a, const std::string & b) {
    std::vector<size_t> last(b.size() + 1);
    std::vector<size_t> row(b.size() + 1);
    std::vector<size_t> next(b.size() + 1);

    for (size_t j = 0; j <= b.size(); j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= a.size(); i++) {
        next[0] = i;
        for (size_t j = 1; j <= b.size(); j++) {
            next[j] = std::min({ row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] != b[j - 1]) });
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                next[j] = std::min(next[j], last[j - 2] + 1);
            }
        }
        std::swap(last, row);
        std::swap(row, next);
    }

    return row[b.size()];
}

std::string lil_suggest(const std::string & word, const lil_names & names) {
    std::string res;

    if (word.size() <= 32) { // nothing is near what is longer
        size_t best = std::max<size_t>(2, word.size() / 3) + 1;
        for (const auto & name : names) {
            const size_t d = distance(lower(word), lower(name));
            // one that shares no letter is no suggestion
            if (d < best && d < std::max(word.size(), name.size())) {
                best = d;
                res  = "did you mean " + name + "? ";
            }
        }
    }

    res += "There is ";
    for (size_t i = 0; i < names.size(); i++) {
        res += (i == 0 ? "" : i + 1 < names.size() ? ", " : " and ") + names[i];
    }

    return res;
}

//
// parts
//

static bool is_separator(char c) {
    return c == ',' || c == ':';
}

static std::string strip(const std::string & s) {
    const char * blank = " \t\r\n";
    const size_t i     = s.find_first_not_of(blank);

    return i == std::string::npos ? "" : s.substr(i, s.find_last_not_of(blank) - i + 1);
}

// a value in quotes that begins at text[i]; i moves behind it
static std::string read_quoted(const std::string & text, size_t & i, std::string & value) {
    static const char ESCAPES[] = "\"\"\\\\n\nt\t";

    for (i++; i < text.size(); i++) {
        if (text[i] == '"') {
            i++;
            return "";
        }
        if (text[i] != '\\') {
            value += text[i];
            continue;
        }
        const char * e = nullptr;
        for (const char * p = ESCAPES; *p && i + 1 < text.size(); p += 2) {
            if (*p == text[i + 1]) {
                e = p + 1;
            }
        }
        if (!e) {
            return lil_quote(text.substr(i, 2)) + " in quotes: a backslash stands before \", \\, n or t";
        }
        value += *e;
        i++;
    }

    return "a value begins with \" and does not end with one";
}

std::string lil_split_notation(const char * text, lil_notation & res) {
    const std::string s = text;

    res = {};

    for (size_t i = 0; i <= s.size(); i++) { // each round begins at a part and ends at the separator behind it
        const size_t begin = i;
        while (i < s.size() && !is_separator(s[i]) && s[i] != '=') {
            i++;
        }
        const std::string word = strip(s.substr(begin, i - begin));

        if (i == s.size() || s[i] != '=') {
            if (begin == 0) {
                res.name = word;
                if (word.empty()) {
                    return "it is empty";
                }
                continue;
            }
            return word.empty() ? "an option is empty: two separators, or one at the end"
                                : lil_quote(word) + " has no value: an option is NAME=VALUE";
        }

        lil_option option = { word, "" };

        i++;
        while (i < s.size() && (s[i] == ' ' || s[i] == '\t')) {
            i++;
        }
        if (i < s.size() && s[i] == '"') {
            const std::string err = read_quoted(s, i, option.value);
            if (!err.empty()) {
                return err;
            }
            while (i < s.size() && (s[i] == ' ' || s[i] == '\t')) {
                i++;
            }
            if (i < s.size() && !is_separator(s[i])) {
                return lil_quote(s.substr(i)) + " stands behind a value in quotes: a comma parts options";
            }
        } else {
            const size_t value = i;
            while (i < s.size() && !is_separator(s[i])) {
                i++;
            }
            option.value = strip(s.substr(value, i - value));
        }

        for (const auto & o : res.options) {
            if (o.name == option.name) {
                return lil_quote(option.name) + " stands there twice";
            }
        }
        res.options.push_back(option);
    }

    return "";
}

//
// fields
//

static const std::vector<lil_word> BOOLS = { { "true", 1 }, { "false", 0 }, { "on", 1 }, { "off", 0 } };

static bool is_whole(lil_field_type type) {
    return type == LIL_FIELD_U32 || type == LIL_FIELD_I32;
}

// a number in any locale; false: it is none
static bool read_number(const std::string & s, bool whole, double & value) {
    if (s.empty() || s.find_first_not_of(whole ? "-0123456789" : "+-.eE0123456789") != std::string::npos) {
        return false;
    }

    std::istringstream in(s);
    in.imbue(std::locale::classic());
    in >> value;

    return !in.fail() && in.peek() == std::istringstream::traits_type::eof() && std::isfinite(value);
}

static std::string write_number(double value) {
    if (value == std::floor(value) && std::fabs(value) < 1e15) {
        char text[32];
        snprintf(text, sizeof(text), "%.0f", value);
        return text;
    }

    // the shortest that reads as the same
    for (int digits = 1;; digits++) {
        std::ostringstream out;
        out.imbue(std::locale::classic());
        out.precision(digits);
        out << value;

        double back = 0.0;
        if (digits == 17 || (read_number(out.str(), false, back) && back == value)) {
            return out.str();
        }
    }
}

static std::string write_number(float value) {
    for (int digits = 1;; digits++) {
        std::ostringstream out;
        out.imbue(std::locale::classic());
        out.precision(digits);
        out << value;

        double back = 0.0;
        if (digits == 9 || (read_number(out.str(), false, back) && (float) back == value)) {
            return out.str();
        }
    }
}

static std::string allowed(const lil_field & f, const std::vector<lil_word> & words) {
    std::string res;
    for (const auto & w : words) {
        res += (res.empty() ? "" : ", ") + std::string(w.word);
    }
    if (f.type == LIL_FIELD_BOOL || f.type == LIL_FIELD_WORD) {
        return res;
    }

    std::string number = is_whole(f.type) ? "a whole number of at least " : "a number of at least ";
    number += write_number(f.least);
    if (f.most < std::numeric_limits<int32_t>::max()) {
        number += " and at most " + write_number(f.most);
    }

    return number + (res.empty() ? "" : ", or " + res);
}

template <typename T>
static void put(void * params, const lil_field & f, T value) {
    memcpy((char *) params + f.offset, &value, sizeof(value));
}

template <typename T>
static T get(const void * params, const lil_field & f) {
    T value;
    memcpy(&value, (const char *) params + f.offset, sizeof(value));

    return value;
}

static std::string read_field(
        const lil_field & f, const std::string & value, void * params, std::deque<std::string> & texts) {
    if (f.type == LIL_FIELD_TEXT) {
        if (value.empty()) {
            return f.name + std::string(" is empty; leave it out");
        }
        texts.push_back(value);
        put<const char *>(params, f, texts.back().c_str());
        return "";
    }

    const auto & words = f.type == LIL_FIELD_BOOL ? BOOLS : f.words;

    double number = 0.0;
    bool   known  = false;
    for (const auto & w : words) {
        if (value == w.word) {
            number = w.value;
            known  = true;
        }
    }

    const bool by_word = f.type == LIL_FIELD_BOOL || f.type == LIL_FIELD_WORD;

    if (!known && (by_word || !read_number(value, is_whole(f.type), number) || number < f.least || number > f.most)) {
        const std::string given = std::string(f.name) + "=" + lil_quote(value);
        if (!by_word) {
            return given + ": give " + allowed(f, words);
        }
        lil_names names;
        for (const auto & w : words) {
            names.push_back(w.word);
        }
        return given + ": " + lil_suggest(value, names);
    }

    switch (f.type) {
        case LIL_FIELD_U32:  put(params, f, (uint32_t) number); break;
        case LIL_FIELD_WORD:
        case LIL_FIELD_I32:  put(params, f, (int32_t) number); break;
        case LIL_FIELD_F32:  put(params, f, (float) number); break;
        case LIL_FIELD_F64:  put(params, f, number); break;
        case LIL_FIELD_BOOL: put(params, f, number != 0.0); break;
        case LIL_FIELD_TEXT: break;
    }

    return "";
}

std::string lil_read_options(const std::vector<lil_option> & options, const std::vector<lil_field> & fields,
        const std::string & owner, void * params, std::deque<std::string> & texts) {
    for (const auto & o : options) {
        const auto f =
                std::find_if(fields.begin(), fields.end(), [&](const lil_field & f) { return o.name == f.name; });

        if (f == fields.end()) {
            lil_names names;
            for (const auto & field : fields) {
                names.push_back(field.name);
            }
            return lil_quote(o.name) + " is no option of " + owner + ": " + lil_suggest(o.name, names);
        }

        const std::string err = read_field(*f, o.value, params, texts);
        if (!err.empty()) {
            return err;
        }
    }

    return "";
}

//
// writing
//

static std::string write_text(const char * text) {
    std::string res = "\"";
    for (; *text; text++) {
        switch (*text) {
            case '"':
            case '\\': res += std::string("\\") + *text; break;
            case '\n': res += "\\n"; break;
            case '\t': res += "\\t"; break;
            default:   res += *text; break;
        }
    }

    return res + "\"";
}

static std::string write_word(const std::vector<lil_word> & words, int64_t value) {
    for (const auto & w : words) {
        if (w.value == value) {
            return w.word;
        }
    }

    return std::to_string(value);
}

static std::string write_field(const lil_field & f, const void * params) {
    switch (f.type) {
        case LIL_FIELD_U32:  return write_word(f.words, get<uint32_t>(params, f));
        case LIL_FIELD_WORD:
        case LIL_FIELD_I32:  return write_word(f.words, get<int32_t>(params, f));
        case LIL_FIELD_F32:  return write_number(get<float>(params, f));
        case LIL_FIELD_F64:  return write_number(get<double>(params, f));
        case LIL_FIELD_BOOL: return write_word(BOOLS, get<bool>(params, f));
        case LIL_FIELD_TEXT: {
            const auto * text = get<const char *>(params, f);
            return text ? write_text(text) : "";
        }
    }

    return "";
}

std::string lil_write_options(const std::vector<lil_field> & fields, const void * params, const void * defaults) {
    std::string res;
    for (const auto & f : fields) {
        const std::string value = write_field(f, params);
        if (value != write_field(f, defaults)) {
            res += (res.empty() ? "" : ",") + std::string(f.name) + "=" + value;
        }
    }

    return res;
}
