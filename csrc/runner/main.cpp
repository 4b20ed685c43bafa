// camfast-run: photos explained by an exported explainer, from C++.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "arrays.h"
#include "camfast/explainer.h"
#include "images.h"

namespace fs = std::filesystem;

namespace {

constexpr const char* kUsage =
    "usage: camfast-run EXPLAINER INPUT OUTPUT [options]\n"
    "\n"
    "  EXPLAINER  made by camfast export: TorchScript, or .pt2\n"
    "  INPUT      a photo, or a folder of photos (JPEG, PNG, PPM); or a .npy of what the explainer takes\n"
    "  OUTPUT     the overlay of a photo (.png, .ppm), or a folder for NAME.png of each; or a .npy of heatmaps\n"
    "\n"
    "options:\n"
    "  --target CLASS     index of the class to explain (default: the predicted one)\n"
    "  --operators PATH   the library of camfast's operators (default: libcamfast_ops.so beside this program)\n"
    "  --time N           then, for every number on standard input: explain N copies of the input so many times, and\n"
    "                     print the mean seconds\n"
    "\n"
    "examples:\n"
    "  camfast-run explainer.pt cat.jpg cat-explained.png\n"
    "  camfast-run explainer.pt photos/ explained/ --target 281\n";

struct Options {
  std::string explainer, input, output, operators;
  std::optional<int64_t> target;
  int64_t time = 0;  // copies of the input; 0 for no timing
};

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

int64_t whole_number(const std::string& name, const std::string& text, int64_t least) {
  if (text.empty() || text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos || std::stoll(text) < least)
    throw UsageError(name + " " + text + ": expected a whole number of at least " + std::to_string(least));
  return std::stoll(text);
}

Options parse(const std::vector<std::string>& arguments) {
  Options options;
  std::vector<std::string> paths;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& name = arguments[i];
    if (name.rfind("--", 0) != 0) {
      paths.push_back(name);
      continue;
    }
    if (i + 1 == arguments.size()) throw UsageError(name + " needs a value, or is unknown");
    const std::string& value = arguments[++i];
    if (name == "--target") {
      options.target = whole_number(name, value, 0);
    } else if (name == "--operators") {
      options.operators = value;
    } else if (name == "--time") {
      options.time = whole_number(name, value, 1);
    } else {
      throw UsageError("unknown option " + name);
    }
  }
  if (paths.size() != 3) throw UsageError("expected EXPLAINER, INPUT and OUTPUT");
  options.explainer = paths[0], options.input = paths[1], options.output = paths[2];
  return options;
}

camfast::Explained explain(const camfast::Explainer& explainer, const at::Tensor& batch, const Options& options) {
  if (!options.target) return explainer.explain(batch);
  return explainer.explain(batch, std::vector<int64_t>(static_cast<size_t>(batch.size(0)), *options.target));
}

void time_calls(const camfast::Explainer& explainer, const at::Tensor& input, const Options& options) {
  if (options.time == 0) return;
  std::fflush(stdout);
  std::vector<int64_t> repeats(static_cast<size_t>(input.dim()), 1);
  repeats[0] = options.time;
  const at::Tensor batch = input.repeat(repeats);
  for (int64_t count; std::cin >> count;) {
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < count; ++i) explain(explainer, batch, options);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("%.9f\n", seconds.count() / static_cast<double>(count));
    std::fflush(stdout);
  }
}

void explain_photo(
    const camfast::Explainer& explainer, const std::string& input, const std::string& output, const Options& options) {
  const at::Tensor frames = camfast::read_photo(input).unsqueeze(0);
  const camfast::Explained found = explain(explainer, frames, options);
  if (output.size() > 4 && output.substr(output.size() - 4) == ".npy")
    camfast::write_array(output, found.heatmaps.select(0, 0));
  else
    camfast::write_photo(output, found.overlays.select(0, 0));
  const int64_t index = found.targets.const_data_ptr<int64_t>()[0];
  const at::Tensor probabilities = found.logits.to(at::kDouble).softmax(1);
  const double probability = probabilities.const_data_ptr<double>()[index];
  std::printf("%s: %s, %.1f%%\n", output.c_str(), explainer.class_name(index).c_str(), probability * 100);
  time_calls(explainer, frames, options);
}

// Explains every photo of a folder; one that cannot be read does not stop the others.
int explain_folder(const camfast::Explainer& explainer, const Options& options) {
  std::vector<fs::path> photos;
  for (const auto& entry : fs::directory_iterator(options.input))
    if (entry.is_regular_file() && camfast::is_photo_name(entry.path())) photos.push_back(entry.path());
  std::sort(photos.begin(), photos.end());
  if (photos.empty()) throw camfast::Error(options.input + " has no photos (.jpg, .jpeg, .png, .ppm)");
  fs::create_directories(options.output);
  int failures = 0;
  for (const fs::path& photo : photos) {
    try {
      const fs::path name = photo.filename().replace_extension(camfast::kPictureSuffix);
      explain_photo(explainer, photo, fs::path(options.output) / name, options);
    } catch (const camfast::Error& error) {
      ++failures;
      std::cerr << "camfast-run: error: " << error.what() << "\n";
    }
  }
  return failures == 0 ? 0 : 1;
}

int run(const Options& options) {
  std::string operators = options.operators;
  if (operators.empty()) operators = fs::read_symlink("/proc/self/exe").parent_path() / "libcamfast_ops.so";
  if (!fs::exists(options.input)) throw camfast::Error(options.input + " does not exist");
  camfast::load_operators(operators);
  const camfast::Explainer explainer(options.explainer);
  if (fs::path(options.input).extension() == ".npy") {
    const at::Tensor batch = camfast::read_array(options.input);
    camfast::write_array(options.output, explain(explainer, batch, options).heatmaps);
    std::printf("%s\n", options.output.c_str());
    time_calls(explainer, batch, options);
    return 0;
  }
  if (!explainer.takes_frames())
    throw camfast::Error(options.explainer + " takes images that are ready for its model, not photos; export it with overlay=True");
  if (fs::is_directory(options.input)) return explain_folder(explainer, options);
  explain_photo(explainer, options.input, options.output, options);
  return 0;
}

}  // namespace

int main(int count, char** values) {
  const std::vector<std::string> arguments(values + 1, values + count);
  if (arguments == std::vector<std::string>{"--help"}) {
    std::cout << kUsage;
    return 0;
  }
  try {
    return run(parse(arguments));
  } catch (const UsageError& error) {
    std::cerr << "camfast-run: error: " << error.what() << "; see camfast-run --help\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "camfast-run: error: " << error.what() << "\n";
    return 1;
  }
}
