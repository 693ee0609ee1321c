#include "emu-metal-device.h"

#include "ggml.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "emu-metal.h"

namespace emu_metal {
#include "lil.metal"
}

#undef kernel
#undef device
#undef constant
#undef threadgroup
#undef thread

extern const char lil_metal_source[];

#define REQUIRE(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: a Mac would refuse this: %s\n", __FILE__, __LINE__, #x); \
            abort(); \
        } \
    } while (0)

emu_metal_state & emu_metal_get() {
    static emu_metal_state s;
    return s;
}

//
// kernels
//

struct ggml_metal_encoder {
    ggml_metal_pipeline_t pipeline = nullptr;

    alignas(16) char bytes[4096]; // buffer 0
    size_t n_bytes = 0;
    size_t n_shmem = 0;

    std::map<int, char *> buffers;
};

// what a parameter is, by the word behind it; buffers: their number
enum {
    P_SHMEM = 100,
    P_TGPIG,
    P_TIITG,
    P_TIISG,
    P_SGITG,
    P_NTG,
};

static int get_word(const std::string & word) {
    static const std::map<std::string, int> words = {
        { "threadgroup_position_in_grid", P_TGPIG },
        { "thread_index_in_threadgroup", P_TIITG },
        { "thread_index_in_simdgroup", P_TIISG },
        { "simdgroup_index_in_threadgroup", P_SGITG },
        { "threads_per_threadgroup", P_NTG },
    };

    if (word.compare(0, 7, "buffer(") == 0) {
        return atoi(word.c_str() + 7);
    }
    REQUIRE(words.count(word));
    return words.at(word);
}

// of a kernel's parameters, one in a line
static std::vector<int> get_words(const std::string & kernel) {
    const std::string text  = lil_metal_source;
    const size_t      begin = text.find("kernel void " + kernel + "(");
    REQUIRE(begin != std::string::npos);
    const size_t end = text.find(") {\n", begin);

    std::vector<int> res;
    for (size_t at = begin;;) {
        const size_t eol = text.find('\n', at);

        const std::string line  = text.substr(at, std::min(eol, end + 1) - at);
        const size_t      open  = line.find("[[");
        const size_t      close = line.find("]]");

        if (open != std::string::npos) {
            res.push_back(get_word(line.substr(open + 2, close - open - 2)));
        } else if (line.find("LIL_SHMEM") != std::string::npos) {
            res.push_back(P_SHMEM);
        } else {
            REQUIRE(at == begin);
        }
        if (eol > end) {
            return res;
        }
        at = eol + 1;
    }
}

// a parameter's value
template <typename T>
struct parameter {
    static T & get(int word, ggml_metal_encoder & enc, const emu_metal::place &) { // the arguments, by reference
        REQUIRE(word == 0 && enc.n_bytes == sizeof(T));
        return *(T *) enc.bytes;
    }
};

template <typename T>
struct parameter<T *> {
    static T * get(int word, ggml_metal_encoder & enc, const emu_metal::place & p) {
        if (word == P_SHMEM) {
            REQUIRE(enc.n_shmem > 0);
            return p.shmem;
        }
        const auto it = enc.buffers.find(word);
        REQUIRE(it != enc.buffers.end());
        return it->second;
    }
};

template <>
struct parameter<emu_metal::uint3> {
    static emu_metal::uint3 get(int word, ggml_metal_encoder &, const emu_metal::place & p) {
        REQUIRE(word == P_TGPIG);
        return p.tgpig;
    }
};

template <>
struct parameter<emu_metal::ushort3> {
    static emu_metal::ushort3 get(int word, ggml_metal_encoder &, const emu_metal::place & p) {
        REQUIRE(word == P_NTG);
        return p.ntg;
    }
};

template <>
struct parameter<emu_metal::ushort> {
    static emu_metal::ushort get(int word, ggml_metal_encoder &, const emu_metal::place & p) {
        if (word == P_TIITG) {
            return p.tiitg;
        }
        if (word == P_TIISG) {
            return p.tiisg;
        }
        REQUIRE(word == P_SGITG);
        return p.sgitg;
    }
};

typedef std::function<void(const std::vector<int> & words, ggml_metal_encoder & enc, const emu_metal::place & p)>
        kernel_t;

template <typename... P, size_t... I>
static kernel_t make_kernel(void (*fun)(P...), std::index_sequence<I...>) {
    return [fun](const std::vector<int> & words, ggml_metal_encoder & enc, const emu_metal::place & p) {
        REQUIRE(words.size() == sizeof...(P));
        fun(parameter<std::remove_reference_t<P>>::get(words[I], enc, p)...);
    };
}

template <typename... P>
static kernel_t make_kernel(void (*fun)(P...)) {
    return make_kernel(fun, std::index_sequence_for<P...>());
}

static const std::map<std::string, kernel_t> & get_kernels() {
#define KERNEL(name) { #name, make_kernel(emu_metal::name) }
#define KERNEL_N(name, n) \
    { #name "_" #n, make_kernel(emu_metal::name<n>) }

    static const std::map<std::string, kernel_t> kernels = {
        KERNEL_N(kernel_lil_attn, 1),
        KERNEL_N(kernel_lil_attn, 2),
        KERNEL_N(kernel_lil_attn, 3),
        KERNEL_N(kernel_lil_attn, 4),
        KERNEL_N(kernel_lil_attn, 5),
        KERNEL_N(kernel_lil_attn, 6),
        KERNEL_N(kernel_lil_attn, 7),
        KERNEL_N(kernel_lil_attn, 8),
        KERNEL_N(kernel_lil_attn, 12),
        KERNEL_N(kernel_lil_attn, 16),
        KERNEL(kernel_lil_attn_join),
        KERNEL(kernel_lil_block_repr),
        KERNEL(kernel_lil_block_scores),
        KERNEL(kernel_lil_block_select),
        KERNEL(kernel_lil_evict_slots),
        KERNEL_N(kernel_lil_score_step, 1),
        KERNEL_N(kernel_lil_score_step, 2),
        KERNEL_N(kernel_lil_score_step, 4),
        KERNEL_N(kernel_lil_score_step, 8),
        KERNEL(kernel_lil_score_add),
        KERNEL(kernel_lil_score_prompt),
        KERNEL(kernel_lil_score_window),
        KERNEL(kernel_lil_infllm_score),
        KERNEL(kernel_lil_infllm_score_add),
        KERNEL(kernel_lil_infllm_score_prompt),
        KERNEL(kernel_lil_lessismore_select),
        KERNEL(kernel_lil_new_slots),
        KERNEL(kernel_lil_page_bounds),
        KERNEL_N(kernel_lil_page_scores, 1),
        KERNEL_N(kernel_lil_page_scores, 2),
        KERNEL_N(kernel_lil_page_scores, 4),
        KERNEL_N(kernel_lil_page_scores, 8),
        KERNEL(kernel_lil_page_select),
        KERNEL(kernel_lil_raas_select),
        KERNEL(kernel_lil_raas_stamp),
        KERNEL_N(kernel_lil_rkv_score, 1),
        KERNEL_N(kernel_lil_rkv_score, 2),
        KERNEL_N(kernel_lil_rkv_score, 4),
        KERNEL_N(kernel_lil_rkv_score, 8),
        KERNEL(kernel_lil_tidal_select),
    };

    return kernels;
}

// host name -> name in the text
static std::map<std::string, std::string> get_names() {
    const std::string text = lil_metal_source;

    std::map<std::string, std::string> res;

    // template LIL_HOST_NAME("NAME") kernel TYPE BASE<N>;
    const std::string host = "template LIL_HOST_NAME(\"";
    for (size_t at = text.find(host); at != std::string::npos; at = text.find(host, at + 1)) {
        const std::string line = text.substr(at + host.size(), text.find('\n', at) - at - host.size());
        const std::string name = line.substr(0, line.find('"'));
        const size_t      lt   = line.rfind('<');
        const size_t      base = line.rfind(' ', lt) + 1;

        REQUIRE(name == line.substr(base, lt - base) + "_" + line.substr(lt + 1, line.rfind('>') - lt - 1));
        res[name] = line.substr(base, lt - base);
    }

    // kernel void NAME(, no template
    const std::string word = "\nkernel void ";
    for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
        const std::string name = text.substr(at + word.size(), text.find('(', at) - at - word.size());
        const size_t      line = text.rfind('\n', at - 1) + 1;

        if (text.compare(line, 8, "template") != 0) {
            REQUIRE(res.count(name) == 0);
            res[name] = name;
        }
    }

    return res;
}

std::string emu_metal_check_kernels() {
    const auto names = get_names();

    for (const auto & k : get_kernels()) {
        if (!names.count(k.first)) {
            return k.first;
        }
    }
    for (const auto & n : names) {
        if (!get_kernels().count(n.first)) {
            return n.first;
        }
    }
    return "";
}

//
// device, library, pipelines
//

struct ggml_metal_device {
    int unused;
};

struct ggml_metal_cv {
    std::map<int, int32_t> values;
};

struct ggml_metal_pipeline {
    const kernel_t * kernel;
    std::vector<int> words; // of its parameters
    std::string      name;
    int32_t          type_k;
    int32_t          type_v;
};

struct ggml_metal_library {
    std::map<std::string, ggml_metal_pipeline> pipelines;
};

ggml_metal_device_t emu_metal_device(int i) {
    static ggml_metal_device devices[8];
    return &devices[i];
}

ggml_metal_encoder_t emu_metal_encoder() {
    static ggml_metal_encoder enc;
    return &enc;
}

extern "C" {

const ggml_metal_device_props * ggml_metal_device_get_props(ggml_metal_device_t) {
    return &emu_metal_get().props;
}

ggml_metal_library_t ggml_metal_library_init_from_source(ggml_metal_device_t, const char * source, bool) {
    REQUIRE(source == lil_metal_source);
    emu_metal_get().n_compiled++;

    return emu_metal_get().compiles ? new ggml_metal_library : nullptr;
}

ggml_metal_cv_t ggml_metal_cv_init(void) {
    return new ggml_metal_cv;
}

void ggml_metal_cv_free(ggml_metal_cv_t cv) {
    delete cv;
}

void ggml_metal_cv_set_int32(ggml_metal_cv_t cv, int32_t value, int32_t idx) {
    cv->values[idx] = value;
}

ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline(ggml_metal_library_t lib, const char * name) {
    ggml_metal_pipeline_with_params res = {};

    const auto it = lib->pipelines.find(name);
    res.pipeline  = it == lib->pipelines.end() ? nullptr : &it->second;

    return res;
}

ggml_metal_pipeline_with_params ggml_metal_library_compile_pipeline(
        ggml_metal_library_t lib, const char * base, const char * name, ggml_metal_cv_t cv) {
    static const auto names = get_names();

    emu_metal_get().n_pipelines++;

    const auto it = get_kernels().find(base);
    if (!emu_metal_get().compiles || it == get_kernels().end() || !names.count(base)) {
        return {};
    }

    // a constant that a kernel uses must have a value
    REQUIRE(cv->values.count(LIL_METAL_FC_TYPE_K) && cv->values.count(LIL_METAL_FC_TYPE_V));

    lib->pipelines[name] = { &it->second, get_words(names.at(base)), base, cv->values[LIL_METAL_FC_TYPE_K],
        cv->values[LIL_METAL_FC_TYPE_V] };

    return ggml_metal_library_get_pipeline(lib, name);
}

int ggml_metal_pipeline_max_theads_per_threadgroup(ggml_metal_pipeline_with_params) {
    return (int) emu_metal_get().n_threads;
}

//
// encoder
//

void ggml_metal_encoder_set_pipeline(ggml_metal_encoder_t enc, ggml_metal_pipeline_with_params pipeline) {
    *enc          = {};
    enc->pipeline = pipeline.pipeline;
}

void ggml_metal_encoder_set_bytes(ggml_metal_encoder_t enc, void * data, size_t size, int idx) {
    REQUIRE(idx == 0 && size <= sizeof(enc->bytes));
    memcpy(enc->bytes, data, size);
    enc->n_bytes = size;
}

void ggml_metal_encoder_set_buffer(ggml_metal_encoder_t enc, ggml_metal_buffer_id buffer, int idx) {
    REQUIRE(buffer.metal && idx > 0 && idx < 31);
    enc->buffers[idx] = (char *) buffer.metal + buffer.offs;
}

void ggml_metal_encoder_set_threadgroup_memory_size(ggml_metal_encoder_t enc, size_t size, int idx) {
    REQUIRE(idx == 0 && size > 0 && size % 16 == 0 && size <= emu_metal_get().props.max_theadgroup_memory_size);
    enc->n_shmem = size;
}

void ggml_metal_encoder_dispatch_threadgroups(
        ggml_metal_encoder_t enc, int tg0, int tg1, int tg2, int tptg0, int tptg1, int tptg2) {
    auto & state = emu_metal_get();

    REQUIRE(tg0 > 0 && tg1 > 0 && tg2 > 0 && tptg0 > 0 && tptg1 == 1 && tptg2 == 1 && tptg0 <= (int) state.n_threads);

    emu_metal::lil_type_k = enc->pipeline->type_k;
    emu_metal::lil_type_v = enc->pipeline->type_v;

    emu_metal::launch({ (unsigned) tg0, (unsigned) tg1, (unsigned) tg2 }, tptg0, enc->n_shmem,
            [&](const emu_metal::place & p) { (*enc->pipeline->kernel)(enc->pipeline->words, *enc, p); });

    state.last         = enc->pipeline->name;
    state.last_threads = (uint32_t) tptg0;
    state.n_dispatched++;
    state.log.push_back(state.last);
}

void ggml_metal_encoder_memory_barrier(ggml_metal_encoder_t) {
    emu_metal_get().log.push_back("barrier");
}

// a Mac's buffers begin somewhere before the tensor
ggml_metal_buffer_id ggml_metal_buffer_get_id(ggml_metal_buffer_t, const ggml_tensor * t) {
    return { (char *) t->data - 16, 16 };
}
}
