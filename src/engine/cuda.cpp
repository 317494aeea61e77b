// What the tensor library's allocator holds of a CUDA device, which its bindings do not ask.
//
// Needs the library's base only: the allocator is found by its registration, once libtorch_cuda is loaded (cuda.rs).
// Nothing is thrown across the border: false says that there is no answer.

#include <c10/core/CachingDeviceAllocator.h>

#include <cstdint>
#include <limits>

namespace {

// The device's allocator, or null where none is registered or it was never used.
c10::DeviceAllocator* allocator() {
  auto* found = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(c10::DeviceType::CUDA));
  return found != nullptr && found->initialized() ? found : nullptr;
}

// Runs `ask` with the allocator; false where there is none or it refuses.
template <typename Ask>
bool with_allocator(int32_t device, Ask ask) noexcept {
  try {
    auto* found = allocator();
    if (found == nullptr || device < 0 || device > std::numeric_limits<c10::DeviceIndex>::max()) {
      return false;
    }
    ask(*found, static_cast<c10::DeviceIndex>(device));
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace

extern "C" {

// As `Memory` in cuda.rs; bytes.
struct ActiveVlmCudaMemory {
  uint64_t allocated;
  uint64_t peak;
  uint64_t reserved;
  uint64_t free;
};

bool active_vlm_cuda_memory(int32_t device, ActiveVlmCudaMemory* memory) noexcept {
  return with_allocator(device, [&](c10::DeviceAllocator& found, c10::DeviceIndex index) {
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    const auto stats = found.getDeviceStats(index);
    memory->allocated = static_cast<uint64_t>(stats.allocated_bytes[all].current);
    memory->peak = static_cast<uint64_t>(stats.allocated_bytes[all].peak);
    memory->reserved = static_cast<uint64_t>(stats.reserved_bytes[all].current);
    memory->free = found.getMemoryInfo(index).first;
  });
}

bool active_vlm_cuda_begin(int32_t device) noexcept {
  return with_allocator(device,
                        [](c10::DeviceAllocator& found, c10::DeviceIndex index) { found.resetPeakStats(index); });
}

}  // extern "C"
