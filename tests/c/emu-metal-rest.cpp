// What ggml-metal's Objective-C files define, too, and a graph of our ops never calls: so that its C++ files link.

#include <cstdio>
#include <cstdlib>

#define NEVER(name) \
    extern "C" void name(void) { \
        fprintf(stderr, "%s is not emulated\n", #name); \
        abort(); \
    }

NEVER(ggml_metal_buffer_clear)
NEVER(ggml_metal_buffer_cpy_tensor)
NEVER(ggml_metal_buffer_free)
NEVER(ggml_metal_buffer_get_base)
NEVER(ggml_metal_buffer_get_tensor)
NEVER(ggml_metal_buffer_init)
NEVER(ggml_metal_buffer_is_shared)
NEVER(ggml_metal_buffer_map)
NEVER(ggml_metal_buffer_memset_tensor)
NEVER(ggml_metal_buffer_set_tensor)
NEVER(ggml_metal_capture_next_compute)
NEVER(ggml_metal_cpy_tensor_async)
NEVER(ggml_metal_cv_set_bool)
NEVER(ggml_metal_cv_set_int16)
NEVER(ggml_metal_device_event_free)
NEVER(ggml_metal_device_event_init)
NEVER(ggml_metal_device_event_synchronize)
NEVER(ggml_metal_device_get_fusion_info)
NEVER(ggml_metal_device_get_memory)
NEVER(ggml_metal_device_id_token)
NEVER(ggml_metal_encoder_debug_group_pop)
NEVER(ggml_metal_encoder_debug_group_push)
NEVER(ggml_metal_event_record)
NEVER(ggml_metal_event_wait)
NEVER(ggml_metal_free)
NEVER(ggml_metal_get_name)
NEVER(ggml_metal_get_tensor_async)
NEVER(ggml_metal_graph_compute)
NEVER(ggml_metal_graph_optimize)
NEVER(ggml_metal_init)
NEVER(ggml_metal_library_get_device)
NEVER(ggml_metal_pipeline_free)
NEVER(ggml_metal_set_abort_callback)
NEVER(ggml_metal_set_n_cb)
NEVER(ggml_metal_set_tensor_async)
NEVER(ggml_metal_supports_family)
NEVER(ggml_metal_synchronize)
