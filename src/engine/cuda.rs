//! CUDA, as far as the bindings do not reach: its library is loaded when it is asked for, and its memory is measured.
//!
//! One build serves both devices: the binary links the CPU library only, and CUDA's kernels register themselves when their
//! library is loaded at start. Deliberately absent: what is made of the figures (`footprint`).

use std::ffi::CStr;

const LIBRARY: &CStr = c"libtorch_cuda.so";

/// What the allocator holds of a device, bytes; as in `cuda.cpp`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// In tensors.
    pub allocated: u64,
    /// Most in tensors since [`begin`].
    pub peak: u64,
    /// In tensors, or kept for the next ones.
    pub reserved: u64,
    /// Free on the device, whoever holds the rest.
    pub free: u64,
}

unsafe extern "C" {
    fn active_vlm_cuda_memory(device: i32, memory: *mut Memory) -> bool;
    fn active_vlm_cuda_begin(device: i32) -> bool;
}

/// Loads CUDA's kernels; again is nothing.
///
/// # Errors
/// In the loader's words.
pub(super) fn load() -> Result<(), String> {
    use nix::libc::{RTLD_GLOBAL, RTLD_NOW, dlerror, dlopen};
    // SAFETY: the name is a valid C string; libtorch's own library has no initialiser that needs more than this; its
    // handle is never closed, as its kernels stay registered until the process ends.
    let handle = unsafe { dlopen(LIBRARY.as_ptr(), RTLD_NOW | RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: dlerror returns null or a C string that lives until this thread's next dl call.
    let reason = unsafe {
        let text = dlerror();
        if text.is_null() {
            "unknown reason".into()
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    };
    Err(format!("{} cannot be loaded ({reason})", LIBRARY.to_string_lossy()))
}

/// What is held of device `index`; none before its first tensor.
pub(super) fn memory(index: usize) -> Option<Memory> {
    let mut memory = Memory::default();
    // SAFETY: the structure is laid out as the callee's and outlives the call, which throws nothing.
    unsafe { active_vlm_cuda_memory(i32::try_from(index).ok()?, &raw mut memory) }.then_some(memory)
}

/// Begins a span whose peak is to be known.
pub(super) fn begin(index: usize) -> bool {
    // SAFETY: a call without pointers, which throws nothing.
    i32::try_from(index).is_ok_and(|index| unsafe { active_vlm_cuda_begin(index) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_tensor_was_made_on_it_nothing_is_told() {
        assert_eq!(memory(0), None);
        assert!(!begin(0) && !begin(usize::MAX));
    }
}
