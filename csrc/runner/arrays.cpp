#include "arrays.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <sstream>
#include <utility>
#include <vector>

#include "camfast/explainer.h"
#include "files.h"

namespace camfast {
namespace {

const std::string kMagic = "\x93NUMPY";
const std::array<std::pair<const char*, at::ScalarType>, 4> kTypes = {
    {{"<f4", at::kFloat}, {"<f8", at::kDouble}, {"|u1", at::kByte}, {"<i8", at::kLong}}};

std::vector<int64_t> shape_in(const std::string& path, const std::string& header) {
  const size_t start = header.find("'shape': ("), end = header.find(')', start);
  if (start == std::string::npos || end == std::string::npos) throw Error(path + " is damaged: it has no shape");
  std::vector<int64_t> shape;
  std::istringstream sides(header.substr(start + 10, end - start - 10));
  for (int64_t side; sides >> side; sides.ignore(1)) {
    if (side < 0 || side > int64_t{1} << 32) throw Error(path + " has an impossible shape");
    shape.push_back(side);
  }
  return shape;
}

}  // namespace

at::Tensor read_array(const std::string& path) {
  const std::string content = read_file(path);
  if (content.size() < 10 || content.compare(0, kMagic.size(), kMagic) != 0) throw Error(path + " is no .npy file");
  const size_t length = static_cast<uint8_t>(content[8]) | static_cast<size_t>(static_cast<uint8_t>(content[9])) << 8;
  const std::string header = content.substr(10, length);
  for (const auto& [name, type] : kTypes) {
    if (header.find(std::string("'descr': '") + name) == std::string::npos) continue;
    if (header.find("'fortran_order': False") == std::string::npos) break;
    at::Tensor array = at::empty(shape_in(path, header), type);
    if (content.size() - 10 - length != array.nbytes()) throw Error(path + " is damaged: its data do not fit its shape");
    std::copy_n(content.data() + 10 + length, array.nbytes(), static_cast<char*>(array.mutable_data_ptr()));
    return array;
  }
  throw Error(path + " holds no float32, float64, uint8 or int64 array in C order");
}

void write_array(const std::string& path, const at::Tensor& array) {
  const at::Tensor whole = array.contiguous();
  const char* name = nullptr;
  for (const auto& [known, type] : kTypes)
    if (type == whole.scalar_type()) name = known;
  if (name == nullptr) throw Error("an array of this type cannot be written to " + path);
  std::ostringstream header;
  header << "{'descr': '" << name << "', 'fortran_order': False, 'shape': (";
  for (const int64_t side : whole.sizes()) header << side << ", ";
  header << "), }";
  std::string text = header.str();
  text.resize((text.size() + 11 + 63) / 64 * 64 - 10 - 1, ' ');  // aligned, with the line's end
  text += '\n';
  std::string content = kMagic + std::string("\x01\x00", 2);
  content += static_cast<char>(text.size() & 255);
  content += static_cast<char>(text.size() >> 8);
  content += text;
  content.append(static_cast<const char*>(whole.const_data_ptr()), whole.nbytes());
  write_file(path, content);
}

}  // namespace camfast
