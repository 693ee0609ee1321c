#pragma once

#include "llama.h"

#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

struct llama_ubatch;

// Which tokens are decode steps. A token is one if its own logits and its predecessor's were asked for: someone sampled
// it from those. Everything else is a prompt's: also the last token of a prompt that comes alone because the rest is in
// the cache already, or because a batch ended before it.
//
// The record goes by position. What is not known (after a state was loaded) was not asked for.

// some tokens of a batch, for one ubatch: n_seqs sequences (or sets of them) of equally many
struct lil_batch_piece {
    std::vector<int32_t> idxs; // into the batch, sequence by sequence
    uint32_t             n_seqs;
};

class lil_steps {
public:
    // batches that begin from now on are prompts, whatever they ask for
    void set_prompt(bool value) { prompt = value; }

    // the batch that is decoded next: sets its tokens apart
    void begin(const llama_batch & batch);

    bool is_step(llama_seq_id seq_id, llama_pos pos) const { return steps.count({ seq_id, pos }) > 0; }

    // Where all tokens of the ubatch are decode steps, as many of each sequence, one after another: how many, if at
    // most n_max. Otherwise it is a prompt's: 0
    uint32_t get_n_each(const llama_ubatch & ubatch, uint32_t n_max) const;

    // How a batch is to be cut, such that no ubatch has steps beside other tokens, or more than n_max of a sequence, or
    // more of one than of another. Empty: llama.cpp will cut it that way by itself.
    //   apart: a sequence has a stream of its own, and the sequences of a ubatch must follow each other
    std::vector<lil_batch_piece> cut(const llama_batch & batch, uint32_t n_ubatch, bool apart, uint32_t n_max) const;

    // the ubatch's tokens are in the cache
    void put(const llama_ubatch & ubatch);

    // as with the cache's cells; seq_id -1: all sequences
    void clear();
    void remove(llama_seq_id seq_id, llama_pos p0, llama_pos p1);
    void copy(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1);
    void keep(llama_seq_id seq_id);
    void shift(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos by);
    void forget(llama_seq_id seq_id);

private:
    bool prompt = false;

    std::map<llama_seq_id, std::set<llama_pos>> asked; // positions whose logits were asked for

    std::set<std::pair<llama_seq_id, llama_pos>> steps; // of the batch
};
