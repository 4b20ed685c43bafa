// Explainers of either format behind one class. LibTorch's headers are included here alone, as they are slow to compile.

#include "camfast/explainer.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <fstream>
#include <sstream>

namespace camfast {
namespace {

constexpr const char* kAheadOfTime = ".pt2";

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Of what LibTorch says, the line that says what is wrong: an exception of TorchScript ends with that, all others begin
// with it.
std::string one_line(const std::string& said) {
  std::istringstream lines(said);
  std::string line, first, raised;
  const std::string kind = "builtins.ValueError: ";
  while (std::getline(lines, line)) {
    if (first.empty()) first = line;
    if (line.rfind(kind, 0) == 0) raised = line.substr(kind.size());
  }
  return raised.empty() ? first : raised;
}

// Calls a function of LibTorch; what it throws becomes an Error that begins with `context`.
template <typename Function>
auto or_error(const std::string& context, const Function& function) {
  try {
    return function();
  } catch (const Error&) {
    throw;
  } catch (const c10::Error& error) {
    throw Error(context + one_line(error.what_without_backtrace()));
  } catch (const std::exception& error) {
    throw Error(context + one_line(error.what()));
  }
}

void check_readable(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  char start[2] = {};
  if (!file || !file.read(start, 2)) throw Error(path + " does not exist, or cannot be read");
  if (start[0] != 'P' || start[1] != 'K') throw Error(path + " is no explainer: not a file of TorchScript or .pt2");
}

void check_operators(const std::string& path) {
  if (!c10::Dispatcher::singleton().findSchema({"camfast::cam", ""}))
    throw Error(path + " needs camfast's operators, which are not loaded; call load_operators first");
}

// Optimization costs the first calls seconds and makes no later one faster; the flag is one of each thread.
class WithoutOptimization {
 public:
  WithoutOptimization() : before_(torch::jit::getGraphExecutorOptimize()) { torch::jit::setGraphExecutorOptimize(false); }
  ~WithoutOptimization() { torch::jit::setGraphExecutorOptimize(before_); }

 private:
  bool before_;
};

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

}  // namespace

void load_operators(const std::string& path) {
  if (dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr)
    throw Error("the library of operators cannot be loaded: " + std::string(dlerror()));
}

struct Explainer::Loaded {
  bool frames = false;
  int64_t classes = 0;
  std::vector<std::string> class_names;
  std::optional<torch::jit::Module> script;
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> package;
  // Of a package: what it takes. A script looks for itself.
  std::vector<int64_t> shape;

  void load_script(const std::string& path) {
    script = or_error(path + " cannot be loaded: ", [&] { return torch::jit::load(path, at::kCPU); });
    if (!script->hasattr("takes") || !script->hasattr("class_names"))
      throw Error(path + " is TorchScript, but no explainer; make one with camfast export");
    frames = script->attr("takes").toStringRef() == "frames";
    classes = script->attr("classes").toInt();
    for (const c10::IValue& name : script->attr("class_names").toListRef()) class_names.push_back(name.toStringRef());
  }

  Explained run_script(const at::Tensor& batch, const std::optional<at::Tensor>& targets) {
    const WithoutOptimization guard;
    const auto result = script->forward({batch, targets ? c10::IValue(*targets) : c10::IValue()}).toTuple();
    const auto& parts = result->elements();
    return {parts[0].toTensor(), parts[1].toTensor(), parts[2].toTensor(), frames ? parts[3].toTensor() : at::Tensor()};
  }

  void load_package(const std::string& path) {
    using Loader = torch::inductor::AOTIModelPackageLoader;
    package = or_error(path + " cannot be loaded: ", [&] { return std::make_unique<Loader>(path); });
    auto about = package->get_metadata();
    if (!about.count("camfast_takes")) throw Error(path + " is a .pt2, but no explainer; make one with camfast export");
    frames = about["camfast_takes"] == "frames";
    classes = std::stoll(about["camfast_classes"]);
    class_names = split_lines(about["camfast_class_names"]);
    for (const std::string& side : split_lines(about["camfast_shape"])) shape.push_back(std::stoll(side));
  }

  Explained run_package(const at::Tensor& batch, const std::optional<at::Tensor>& targets) {
    check_batch(batch);
    const at::Tensor given = targets ? *targets : at::full({batch.size(0)}, -1, at::kLong);
    if (given.dim() != 1 || given.size(0) != batch.size(0))
      throw Error("there are " + std::to_string(given.numel()) + " targets for " + std::to_string(batch.size(0)) + " samples");
    for (int64_t i = 0; i < given.numel(); ++i)
      if (const int64_t wanted = given.const_data_ptr<int64_t>()[i]; wanted < -1 || wanted >= classes)
        throw Error("targets has class " + std::to_string(wanted) + "; expected 0 to " + std::to_string(classes - 1));
    const std::vector<at::Tensor> parts = package->run({batch.contiguous(), given});
    return {parts[0], parts[1], parts[2], at::Tensor()};
  }

  void check_batch(const at::Tensor& batch) const {
    const auto sides = batch.sizes();
    if (batch.scalar_type() != at::kFloat) throw Error("the images are not float32, which this explainer takes");
    if (sides.size() != 4 || !std::equal(shape.begin(), shape.end(), sides.begin() + 1) || sides[0] == 0) {
      std::ostringstream said;
      said << "the images have shape " << sides << "; this explainer takes [N, " << shape[0] << ", " << shape[1] << ", "
           << shape[2] << "]";
      throw Error(said.str());
    }
  }
};

Explainer::Explainer(const std::string& path) : loaded_(std::make_unique<Loaded>()) {
  check_readable(path);
  check_operators(path);
  if (ends_with(path, kAheadOfTime))
    loaded_->load_package(path);
  else
    loaded_->load_script(path);
}

Explainer::~Explainer() = default;
Explainer::Explainer(Explainer&&) noexcept = default;
Explainer& Explainer::operator=(Explainer&&) noexcept = default;

Explained Explainer::explain(const at::Tensor& batch, const std::optional<std::vector<int64_t>>& targets) const {
  return or_error("", [&] {
    std::optional<at::Tensor> classes;
    if (targets) {
      classes = at::empty({static_cast<int64_t>(targets->size())}, at::kLong);
      std::copy(targets->begin(), targets->end(), classes->mutable_data_ptr<int64_t>());
    }
    return loaded_->package ? loaded_->run_package(batch, classes) : loaded_->run_script(batch, classes);
  });
}

bool Explainer::takes_frames() const { return loaded_->frames; }

int64_t Explainer::classes() const { return loaded_->classes; }

std::string Explainer::class_name(int64_t index) const {
  const auto& names = loaded_->class_names;
  const bool known = index >= 0 && index < static_cast<int64_t>(names.size());
  return known ? names[static_cast<size_t>(index)] : "class " + std::to_string(index);
}

}  // namespace camfast
