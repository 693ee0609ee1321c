#pragma once

// Put before ggml-vulkan.cpp. It names the types of VK_EXT_layer_settings, which Vulkan's headers have from 1.3.272 on,
// even where it does not use them. Debian 12's are older. The layout is the C API's, so that the loader may walk the
// chain.

#include <vulkan/vulkan_core.h>

#if defined(__cplusplus) && !defined(VK_EXT_layer_settings)

#include <cstdint>
#include <vector>

namespace vk {

enum class LayerSettingTypeEXT : int32_t { eBool32 = 0 };

struct LayerSettingEXT {
    const char *        pLayerName;
    const char *        pSettingName;
    LayerSettingTypeEXT type;
    uint32_t            valueCount;
    const void *        pValues;
};

struct LayerSettingsCreateInfoEXT {
    explicit LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> & settings) :
        settingCount((uint32_t) settings.size()), pSettings(settings.data()) {}

    VkStructureType         sType = (VkStructureType) 1000496000;
    const void *            pNext = nullptr;
    uint32_t                settingCount;
    const LayerSettingEXT * pSettings;
};

}

#endif
