// The tensor library's kernels over many tensors at once, which its bindings leave out.
//
// Tensors come as the bindings hold them: pointers to at::Tensor. Nothing is thrown across the border: null says that it
// went well, else it is the library's own text, kept for this thread until its next call.

#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>

#include <string>
#include <vector>

namespace {

thread_local std::string failure;

template <typename Work>
const char* told(Work work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const c10::Error& error) {
    failure = error.what_without_backtrace();
  } catch (const std::exception& error) {
    failure = error.what();
  } catch (...) {
    failure = "an unknown exception";
  }
  return failure.c_str();
}

std::vector<at::Tensor> list(at::Tensor* const* tensors, size_t count) {
  std::vector<at::Tensor> all;
  all.reserve(count);
  for (size_t at = 0; at < count; ++at) {
    all.push_back(*tensors[at]);
  }
  return all;
}

}  // namespace

extern "C" {

// As `Step` in kernels.rs.
struct ActiveVlmStep {
  double step;
  double rate;
  double beta1;
  double beta2;
  double decay;
  double eps;
};

// One step of AdamW in place on tensors of one kind and device.
const char* active_vlm_adamw(at::Tensor* const* parameters, at::Tensor* const* gradients, at::Tensor* const* means,
                             at::Tensor* const* squares, size_t count, ActiveVlmStep how) noexcept {
  return told([&] {
    auto updated = list(parameters, count);
    auto mean = list(means, count), square = list(squares, count);
    const auto steps = at::full({}, how.step, updated.at(0).options().dtype(at::kFloat));
    const std::vector<at::Tensor> counted(count, steps);
    // The kernel goes through memory in order.
    auto gradient = list(gradients, count);
    for (auto& own : gradient) {
      own = own.contiguous();
    }
    at::_fused_adamw_(updated, gradient, mean, square, {}, counted, how.rate, how.beta1, how.beta2,
                      how.decay, how.eps,
                      /*amsgrad=*/false, /*maximize=*/false);
  });
}

// The joint 2-norm of tensors of one device.
const char* active_vlm_norm(at::Tensor* const* tensors, size_t count, double* norm) noexcept {
  return told([&] {
    std::vector<at::Tensor> norms;
    for (const auto& own : at::_foreach_norm(list(tensors, count), 2)) {
      norms.push_back(own.to(at::kFloat));
    }
    *norm = at::stack(norms).norm().item<double>();
  });
}

// Multiplies tensors in place.
const char* active_vlm_scale(at::Tensor* const* tensors, size_t count, double factor) noexcept {
  return told([&] { at::_foreach_mul_(list(tensors, count), factor); });
}

// Lets go of the gradients of tensors: the next backward pass hands its own over instead of adding to noughts.
const char* active_vlm_forget(at::Tensor* const* tensors, size_t count) noexcept {
  return told([&] {
    for (size_t at = 0; at < count; ++at) {
      tensors[at]->mutable_grad().reset();
    }
  });
}

}  // extern "C"
