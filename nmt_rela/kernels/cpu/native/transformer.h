// The Transformer of models/transformer.py, and its decoder one step at a time. Sentences have no padding here: their
// rows stand one below the other.

#pragma once

#include <stdexcept>

#include "attention.h"
#include "linear.h"

struct Config {
    int32_t d_model, heads, ffn_dim, encoder_layers, decoder_layers, vocabulary, pre_norm, activation, levels;
    int32_t encoder_variant, decoder_variant, cross_variant, starts_with_zeros, source_vocabulary;
    float norm_epsilon, source_scale, target_scale;
};
enum Activation { RELU, SWISH, GELU };

// The arrays of a model, in the order in which native_decoder.py lists them; absent ones are null.
struct Arrays {
    const float* const* next;
    const int levels;
    Floats vector(int size) {
        const float* array = *next++;
        return array ? Floats(array, array + size) : Floats();
    }
    Linear linear(int in, int out) {
        next += 2;
        return Linear(next[-2], next[-1], in, out, levels);
    }
};

struct Norm {
    Floats gain, bias;
    Norm(Arrays& a, int width) : gain(a.vector(width)), bias(a.vector(width)) {}
};

struct Embedding {
    const float* weight;  // [vocabulary, d_model], not copied
    int vocabulary;
    float scale;
    Floats bias;
    Embedding(Arrays& a, int vocabulary, int width, float scale)
        : weight(*a.next++), vocabulary(vocabulary), scale(scale), bias(a.vector(width)) {}
};

struct Attention {
    Variant variant;
    Linear input;  // q, k and v; in cross-attention q
    Floats gate;
    Linear output;
    Norm norm;
    Attention(Arrays& a, int32_t variant, int width, int parts)
        : variant(Variant(variant)), input(a.linear(width, parts * width)), gate(a.vector(width)),
          output(a.linear(width, width)), norm(a, width) {}
};

struct FeedForward {
    Linear first, second;
    Norm norm;
    FeedForward(Arrays& a, int width, int inner)
        : first(a.linear(width, inner)), second(a.linear(inner, width)), norm(a, width) {}
};

struct EncoderLayer {
    Attention self;
    FeedForward feed_forward;
    EncoderLayer(Arrays& a, const Config& c)
        : self(a, c.encoder_variant, c.d_model, 3), feed_forward(a, c.d_model, c.ffn_dim) {}
};

struct DecoderLayer {
    Attention self, cross;
    Linear source;  // k and v of cross-attention
    FeedForward feed_forward;
    DecoderLayer(Arrays& a, const Config& c)
        : self(a, c.decoder_variant, c.d_model, 3), cross(a, c.cross_variant, c.d_model, 1),
          source(a.linear(c.d_model, 2 * c.d_model)), feed_forward(a, c.d_model, c.ffn_dim) {}
};

struct Model {
    const Config c;
    Arrays arrays;
    const Embedding source, target;
    std::vector<EncoderLayer> encoder;
    std::vector<DecoderLayer> decoder;
    std::vector<Norm> final_norms;  // of encoder and decoder; empty vectors in a post-norm model
    std::vector<Linear> output;     // one

    Model(const Config& config, const float* const* given)
        : c(config), arrays{given, c.levels}, source(arrays, c.source_vocabulary, c.d_model, c.source_scale),
          target(arrays, c.vocabulary, c.d_model, c.target_scale) {
        for (int i = 0; i < c.encoder_layers; i++) encoder.emplace_back(arrays, c);
        for (int i = 0; i < c.decoder_layers; i++) decoder.emplace_back(arrays, c);
        for (int i = 0; i < 2; i++) final_norms.emplace_back(arrays, c.d_model);
        output.push_back(arrays.linear(c.d_model, c.vocabulary));
    }
};

// The hidden states of some rows on their way through the layers, and room for what the layers make of them.
struct Stream {
    const Model& model;
    int rows = 0;
    Floats x, normed, projected, z, update, inner, scores;

    explicit Stream(const Model& model) : model(model) {}

    void resize(int count) {
        const size_t size = size_t(rows = count) * model.c.d_model;
        x.resize(size), z.resize(size), update.resize(size), projected.resize(3 * size);
    }

    void embed(int row, const Embedding& from, int64_t token, const float* position, bool zero) {
        const int d = model.c.d_model;
        if (token < 0 || token >= from.vocabulary) throw std::out_of_range("token");
        const float* embedded = from.weight + token * d;
        for (int i = 0; i < d; i++)
            x[size_t(row) * d + i] = (zero ? 0.0f : embedded[i] * from.scale + (from.bias.empty() ? 0 : from.bias[i])) +
                                     position[i];
    }

    void norm(const Norm& norm, Floats& y) {
        y.resize(x.size());
        for (size_t r = 0; r < x.size(); r += model.c.d_model)
            layer_norm(&x[r], model.c.d_model, norm.gain, norm.bias, model.c.norm_epsilon, &y[r]);
    }

    // What a sublayer reads: x, in a pre-norm model normed.
    const float* input(const Norm& of) {
        if (model.c.pre_norm) norm(of, normed);
        return model.c.pre_norm ? normed.data() : x.data();
    }

    // x + update, in a post-norm model normed.
    void add_update(const Norm& of) {
        for (size_t i = 0; i < x.size(); i++) x[i] += update[i];
        if (!model.c.pre_norm) norm(of, x);
    }

    // The queries are the first columns of `projected`, `width` wide; keys_of(row) are the keys of a row.
    template <class KeysOf>
    void attention(const Attention& layer, int width, KeysOf keys_of) {
        const int d = model.c.d_model;
        for (int r = 0; r < rows; r++) {
            float* row = &z[size_t(r) * d];
            attend(layer.variant, &projected[size_t(r) * width], keys_of(r), model.c.heads, d / model.c.heads, scores, row);
            if (layer.variant >= RELA_I) gated_rms_norm(row, d, layer.gate);
        }
        layer.output(z.data(), rows, update.data());
        add_update(layer.norm);
    }

    void feed_forward(const FeedForward& layer) {
        inner.resize(size_t(rows) * model.c.ffn_dim);
        layer.first(input(layer.norm), rows, inner.data());
        if (model.c.activation == RELU)
            for (float& value : inner) value = value < 0 ? 0.0f : value;
        else if (model.c.activation == SWISH)
            for (float& value : inner) value *= sigmoid(value);
        else
            for (float& value : inner) value *= 0.5f * (1.0f + std::erf(value * 0.70710678f));
        layer.second(inner.data(), rows, update.data());
        add_update(layer.norm);
    }
};

// A batch of sentences while their translations are searched: what models/incremental_decoder.py is.
struct State {
    const Model& model;
    Stream stream;
    int length = 0;
    std::vector<int> active;                             // sentences that are still searched
    std::vector<std::vector<int>> source_rows;           // of each sentence
    std::vector<Floats> cross;                           // of each layer: k and v, [source rows, 2 · d_model]
    std::vector<std::vector<Floats>> caches;             // of each sentence and layer: k and v, [slots, 2 · d_model]
    std::vector<std::vector<std::vector<int>>> history;  // of each sentence and beam: the slots of its positions

    // Encodes source [sentences, width] with pad_id at padding; positions are [width, d_model].
    State(const Model& model, const int64_t* source, int sentences, int width, int64_t pad_id, const float* positions)
        : model(model), stream(model), source_rows(sentences), cross(model.decoder.size()),
          caches(sentences, std::vector<Floats>(model.decoder.size())), history(sentences) {
        const int d = model.c.d_model;
        std::vector<int> sentence_of;  // each row
        for (int i = 0; i < sentences * width; i++) {
            if (source[i] == pad_id) continue;
            source_rows[i / width].push_back(int(sentence_of.size()));
            sentence_of.push_back(i / width);
            stream.resize(int(sentence_of.size()));
            stream.embed(stream.rows - 1, model.source, source[i], positions + size_t(i % width) * d, false);
        }
        for (int s = 0; s < sentences; s++) active.push_back(s);
        for (const EncoderLayer& layer : model.encoder) {
            layer.self.input(stream.input(layer.self.norm), stream.rows, stream.projected.data());
            const float* qkv = stream.projected.data();
            stream.attention(layer.self, 3 * d, [&](int r) {
                return Keys{qkv + d, qkv + 2 * d, 3 * d, source_rows[sentence_of[r]]};
            });
            stream.feed_forward(layer.feed_forward);
        }
        if (model.c.pre_norm) stream.norm(model.final_norms[0], stream.x);
        for (size_t i = 0; i < cross.size(); i++) {
            cross[i].resize(size_t(stream.rows) * 2 * d);
            model.decoder[i].source(stream.x.data(), stream.rows, cross[i].data());
        }
    }

    // Appends a token to every beam: [active, beams] → logits [active, beams, vocabulary].
    void step(const int64_t* tokens, int beams, const float* position, float* logits) {
        const int d = model.c.d_model;
        stream.resize(int(active.size()) * beams);
        for (int r = 0; r < stream.rows; r++)
            stream.embed(r, model.target, tokens[r], position, model.c.starts_with_zeros && length == 0);
        for (int sentence : active) take_slots(history[sentence], beams);
        length++;
        for (size_t i = 0; i < model.decoder.size(); i++) {
            const DecoderLayer& layer = model.decoder[i];
            layer.self.input(stream.input(layer.self.norm), stream.rows, stream.projected.data());
            stream.attention(layer.self, 3 * d, [&](int r) {
                const std::vector<int>& slots = history[active[r / beams]][r % beams];
                Floats& cache = caches[active[r / beams]][i];
                cache.resize(std::max(cache.size(), size_t(slots.back() + 1) * 2 * d));
                const float* kv = &stream.projected[size_t(r) * 3 * d + d];
                std::copy(kv, kv + 2 * d, &cache[size_t(slots.back()) * 2 * d]);
                return Keys{&cache[0], &cache[d], 2 * d, slots};
            });
            layer.cross.input(stream.input(layer.cross.norm), stream.rows, stream.projected.data());
            stream.attention(layer.cross, d, [&](int r) {
                return Keys{cross[i].data(), cross[i].data() + d, 2 * d, source_rows[active[r / beams]]};
            });
            stream.feed_forward(layer.feed_forward);
        }
        if (model.c.pre_norm) stream.norm(model.final_norms[1], stream.x);
        model.output[0](stream.x.data(), stream.rows, logits);
    }

    // Gives each beam of a sentence a slot that no beam sees.
    void take_slots(std::vector<std::vector<int>>& beam_slots, int beams) {
        beam_slots.resize(beams);
        std::vector<bool> seen((length + 1) * beams);
        for (const std::vector<int>& slots : beam_slots)
            for (int slot : slots) seen[slot] = true;
        int free = 0;
        for (std::vector<int>& slots : beam_slots) {
            while (seen[free]) free++;
            slots.push_back(free++);
        }
    }

    // Lets beam b of sentence s continue the hypothesis of beam parents[s, b].
    void reorder(const int64_t* parents, int beams) {
        for (int sentence : active) {
            std::vector<std::vector<int>> reordered;
            for (int b = 0; b < beams; b++) reordered.push_back(history[sentence][*parents++]);
            history[sentence].swap(reordered);
        }
    }

    // Keeps the sentences at these positions, ascending.
    void select(const int64_t* kept, int count) {
        std::vector<int> remaining;
        for (int i = 0; i < count; i++) remaining.push_back(active[kept[i]]);
        for (int sentence : active)
            if (!std::binary_search(remaining.begin(), remaining.end(), sentence)) caches[sentence].clear();
        active.swap(remaining);
    }
};
