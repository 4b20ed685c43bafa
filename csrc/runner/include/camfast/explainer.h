// Explainers that camfast exported, in C++:
//
//   camfast::load_operators("libcamfast_ops.so");
//   camfast::Explainer explainer("explainer.pt");
//   camfast::Explained found = explainer.explain(frames);  // uint8 [N, H, W, 3]
//   use(found.overlays);
//
// One explainer may be used from several threads. Whatever goes wrong is a camfast::Error, whose what() is one line.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace camfast {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What an explainer gives.
struct Explained {
  at::Tensor heatmaps;  // [N, H, W] float32 in [0, 1]
  at::Tensor logits;    // [N, classes]
  at::Tensor targets;   // [N] int64: the explained classes
  at::Tensor overlays;  // uint8 [N, H, W, 3]; undefined where the explainer takes images
};

// Loads the library of camfast's operators, which every explainer calls; once for a process.
void load_operators(const std::string& path);

class Explainer {
 public:
  // A file that camfast.to_torchscript or camfast.to_pt2 made, or `camfast export`; .pt2 by its name.
  explicit Explainer(const std::string& path);
  ~Explainer();
  Explainer(Explainer&&) noexcept;
  Explainer& operator=(Explainer&&) noexcept;

  // batch: uint8 RGB frames [N, H, W, 3] where the explainer takes frames, else images [N, C, H, W] that are ready for
  // the model. targets: one class a sample, -1 for the predicted one; all are predicted without them.
  Explained explain(const at::Tensor& batch, const std::optional<std::vector<int64_t>>& targets = std::nullopt) const;

  bool takes_frames() const;
  int64_t classes() const;
  // The name of a class, or "class 7" where names are not known.
  std::string class_name(int64_t index) const;

 private:
  struct Loaded;
  std::unique_ptr<Loaded> loaded_;
};

}  // namespace camfast
