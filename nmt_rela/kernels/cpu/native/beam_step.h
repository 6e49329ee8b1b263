// What generation/beam_search.py does with the logits of one step, on a CPU.

#pragma once

#include <algorithm>
#include <stdexcept>

#include "vectors.h"

// S sentences, B beams, V vocabulary, C = 2 · beam_size candidates.
struct BeamStep {
    int32_t sentences, beams, vocabulary, beam_size, n_best, step, early_stopping, eos, pad, num_suppressed;
    float penalty;
    float* logits;                            // [S, B, V], overwritten
    const int64_t *suppressed, *forced;       // [suppressed]; [S]: the token that a prefix determines, or −1
    const int64_t* max_lengths;               // [S]
    const float *final_penalty, *scores;      // [S], [S, B]
    // The pool of finished hypotheses, best first, each [S, beam_size], updated:
    float* finished_scores;
    int64_t* finished_indices;
    // What follows is written. Candidates, best first, each [S, C]:
    float* totals;
    int64_t *beam_indices, *tokens;
    float* token_log_probs;
    // Those that continue, each [S, beam_size], and whether a sentence is done [S]:
    int64_t* continuing;
    float* next_scores;
    int64_t *next_tokens, *parents;
    uint8_t* done;

    void run() {
        for (int s = 0; s < sentences; s++) {
            find_candidates(s);
            update_pool(s);
        }
    }

private:
    int num_candidates() const { return 2 * beam_size; }

    // Among equals the one that is found first comes first: that of the better beam, then the smaller token.
    void find_candidates(int s) {
        const int count = num_candidates(), first = s * count;
        std::fill_n(totals + first, count, NEVER);
        std::fill_n(token_log_probs + first, count, NEVER);
        std::fill_n(beam_indices + first, count, 0);
        std::fill_n(tokens + first, count, pad);
        const float& worst = totals[first + count - 1];
        for (int b = 0; b < beams; b++) {
            float* row = logits + (size_t(s) * beams + b) * vocabulary;
            const float largest = max_of(row, vocabulary), score = scores[s * beams + b];
            const float log_sum = largest + std::log(sum_of_exponentials(row, vocabulary, largest));
            const int64_t only = forced[s];
            if (only >= vocabulary) throw std::out_of_range("token");
            if (only >= 0) {
                const float logit = row[only];
                std::fill_n(row, vocabulary, NEVER);
                row[only] = logit;
            }
            for (int i = 0; only < 0 && i < num_suppressed; i++) row[suppressed[i]] = NEVER;
            for (int block = 0, end; block < vocabulary; block = end) {
                end = std::min(vocabulary, block + 64);
                if (!(max_of(row + block, end - block) - log_sum + score > worst)) continue;
                for (int token = block; token < end; token++)
                    if (row[token] - log_sum + score > worst) insert(first, b, token, row[token] - log_sum, score);
            }
        }
    }

    void insert(int first, int beam, int token, float log_prob, float score) {
        int i = first + num_candidates() - 1;
        for (; i > first && totals[i - 1] < log_prob + score; i--) {
            totals[i] = totals[i - 1];
            beam_indices[i] = beam_indices[i - 1];
            tokens[i] = tokens[i - 1];
            token_log_probs[i] = token_log_probs[i - 1];
        }
        totals[i] = log_prob + score;
        beam_indices[i] = beam;
        tokens[i] = token;
        token_log_probs[i] = log_prob;
    }

    void update_pool(int s) {
        const int count = num_candidates(), last = beam_size - 1;
        const bool at_max_length = max_lengths[s] <= step + 1;
        float* pool = finished_scores + s * beam_size;
        int64_t* indices = finished_indices + s * beam_size;
        const bool is_full = early_stopping && pool[last] > NEVER;
        std::vector<int> order, ended;
        for (int i = 0; i < count; i++) {
            const bool has_ended = at_max_length || tokens[s * count + i] == eos;
            (has_ended ? ended : order).push_back(i);
            const float score = totals[s * count + i] / penalty;
            if (!has_ended || is_full || (early_stopping && i > last) || !(score > pool[last])) continue;
            int place = last;
            for (; place && pool[place - 1] < score; place--) {
                pool[place] = pool[place - 1];
                indices[place] = indices[place - 1];
            }
            pool[place] = score;
            indices[place] = int64_t(step) * count + i;
        }
        order.insert(order.end(), ended.begin(), ended.end());
        for (int b = 0; b < beam_size; b++) {
            const int from = s * count + order[b], to = s * beam_size + b;
            continuing[to] = order[b];
            next_scores[to] = at_max_length ? NEVER : totals[from];
            next_tokens[to] = tokens[from];
            parents[to] = beam_indices[from];
        }
        done[s] = pool[n_best - 1] >= next_scores[s * beam_size] / final_penalty[s] ||
                  (early_stopping && pool[last] > NEVER);
    }
};
