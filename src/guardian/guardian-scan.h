#pragma once

// guardian-scan.h: where a text stands, byte by byte: at a place to stop, in thinking, in a tool call, in JSON

#include <cstddef>
#include <string>
#include <vector>

// Whether a text ends at a line's or a sentence's end. A full stop behind a digit is none: a number may go on.
bool lil_guardian_is_end(const std::string & text);

// Whether a text ends within a UTF-8 character. Bytes that are no UTF-8 at all do not count as a begun one.
bool lil_guardian_is_partial(const std::string & text);

// JSON in a text. Outside of JSON an object begins at '{', an array at '[', where what follows may stand there; the
// first byte that no JSON has at its place ends it: it was none. So braces of prose, code and LaTeX are soon over, and
// a string, which may have no line break, at the end of the line.
class lil_guardian_json {
public:
    void add(char c);

    bool is_open() const { return !open.empty(); }
    bool in_string() const { return is_open() && (state == STRING || state == ESCAPE); }

private:
    enum state_t {
        VALUE,       // a value comes
        FIRST_VALUE, // the same, or ']'
        FIRST_KEY,   // a key, or '}'
        KEY,
        COLON,
        AFTER, // behind a value: ',' or the end of what is open
        STRING,
        ESCAPE, // behind a backslash
        WORD,   // a number, true, false, null; which letters they have is not looked at
    } state = VALUE;

    std::string open;           // '{' and '[' that are open
    bool        is_key = false; // the string that is read

    bool take(char c);
    bool close(char bracket);
};

// A generated text and, for thinking, the prompt before it.
class lil_guardian_scan {
public:
    // Texts that begin and end thinking. begin may be empty: thinking is open until end has come.
    lil_guardian_scan(std::string begin, std::string end);

    // Appends a piece. generated: not the prompt's, in which only thinking is looked at.
    void add(const std::string & piece, bool generated);

    // as the host knows it, whatever was seen
    void set_thinking(bool thinking) { this->thinking = thinking; }

    // thinking is over, though its end was not seen
    void end_thinking() { thinking = false; }

    void clear();

    bool is_thinking() const { return thinking; }
    bool in_tool_call() const { return tool_end != nullptr; }
    bool in_json() const { return json.is_open(); }

    // in a tool call or a string of JSON: nothing may be put in here
    bool is_closed() const { return in_tool_call() || json.in_string(); }

    bool is_end() const { return lil_guardian_is_end(tail); }
    bool is_partial() const { return lil_guardian_is_partial(tail); }

private:
    std::string begin;
    std::string end;
    size_t      n_tail; // bytes that a marker, a character or a sentence's end may need

    std::string       tail; // the end of the text
    bool              thinking;
    const char *      tool_end = nullptr; // what ends the tool call; "": nothing does. null: there is none
    lil_guardian_json json;

    bool ends_with(const std::string & marker) const;
};
