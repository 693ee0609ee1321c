#pragma once

// lil-notation.h: the notation that all doors share, NAME:OPTION=VALUE,OPTION=VALUE, read and written by tables of
// fields. The functions that doors call are in lil.h: lil_parse_sparse(), lil_parse_guardian().
//
//   NAME      letters, digits, '_'
//   OPTION    as NAME; at most once
//   VALUE     up to the next ',' or ':'; or in double quotes, where \" \\ \n \t stand for what they do in C
//
// ',' and ':' both part options. Blanks around a word are skipped.

#include "lil.h"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

// a word that stands for a number
struct lil_word {
    const char * word;
    int32_t      value;
};

enum lil_field_type {
    LIL_FIELD_U32,
    LIL_FIELD_I32,
    LIL_FIELD_F32,
    LIL_FIELD_F64,
    LIL_FIELD_BOOL,
    LIL_FIELD_WORD, // an int32_t or an enum, by its words alone
    LIL_FIELD_TEXT, // a const char *, which points into the texts that lil_read_options() is given
};

// A field of a struct of lil.h. One line of a table.
struct lil_field {
    const char *   name; // as doors call it
    lil_field_type type;
    size_t         offset;

    double least = 0.0; // numbers
    double most  = 0.0;

    // WORD: what there is. Numbers: words that are numbers too ("auto")
    std::vector<lil_word> words = {};
};

struct lil_option {
    std::string name;
    std::string value;
};

struct lil_notation {
    std::string             name; // empty: options alone
    std::vector<lil_option> options;
};

// Names in the order in which errors list them.
using lil_names = std::vector<std::string>;

// Every function that returns a std::string returns what is wrong, in one line, or an empty string.

std::string lil_split_notation(const char * text, lil_notation & res);

// Writes the options into a struct. owner: what errors call it ("quest"); texts: what LIL_FIELD_TEXT points into.
std::string lil_read_options(const std::vector<lil_option> & options, const std::vector<lil_field> & fields,
        const std::string & owner, void * params, std::deque<std::string> & texts);

// The options in which params differs from defaults, in the order of the table: "budget=512,first_page=true".
std::string lil_write_options(const std::vector<lil_field> & fields, const void * params, const void * defaults);

// What there is, and the nearest of it: "did you mean quest? There is h2o, quest and tova".
std::string lil_suggest(const std::string & word, const lil_names & names);

// A word of the user's as an error shows it: in quotes, cut where it is long, all in ASCII.
std::string lil_quote(const std::string & word);
