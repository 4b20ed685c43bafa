#include "images.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cctype>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <sstream>

#include "camfast/explainer.h"
#include "files.h"

#ifdef CAMFAST_JPEG
#include <jpeglib.h>
#endif
#ifdef CAMFAST_PNG
#include <png.h>
#endif

namespace camfast {
namespace {

// More pixels than any camera has: a header that claims as many is a mistake, or an attack.
constexpr int64_t kMostPixels = int64_t{1} << 29;

at::Tensor make_pixels(const std::string& path, int64_t height, int64_t width) {
  if (height < 1 || width < 1 || height > kMostPixels / width) throw Error(path + " has an impossible size");
  return at::empty({height, width, 3}, at::kByte);
}

bool starts_with(const std::string& content, const std::string& start) {
  return content.compare(0, start.size(), start) == 0;
}

std::string suffix_of(const std::string& path) {
  const size_t dot = path.rfind('.');
  std::string suffix = dot == std::string::npos ? "" : path.substr(dot);
  std::transform(suffix.begin(), suffix.end(), suffix.begin(), [](unsigned char c) { return std::tolower(c); });
  return suffix;
}

at::Tensor decode_ppm(const std::string& path, const std::string& content) {
  std::istringstream stream(content);
  std::string magic;
  int64_t width = 0, height = 0, most = 0;
  if (!(stream >> magic >> width >> height >> most) || most != 255) throw Error(path + " is no PPM of 8 bits");
  at::Tensor pixels = make_pixels(path, height, width);
  const auto start = static_cast<size_t>(stream.tellg()) + 1;
  if (content.size() < start + pixels.nbytes()) throw Error(path + " is damaged: it ends early");
  std::copy_n(content.data() + start, pixels.nbytes(), static_cast<char*>(pixels.mutable_data_ptr()));
  return pixels;
}

#ifdef CAMFAST_JPEG
struct JpegErrors {
  jpeg_error_mgr manager;
  std::jmp_buf back;
  char said[JMSG_LENGTH_MAX];
};

[[noreturn]] void fail_jpeg(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  (*info->err->format_message)(info, errors->said);
  std::longjmp(errors->back, 1);
}

// libjpeg leaves by longjmp, over nothing that has a destructor here.
bool decode_jpeg_into(const std::string& content, jpeg_decompress_struct& info, JpegErrors& errors, uint8_t* pixels) {
  if (setjmp(errors.back)) return false;
  if (pixels == nullptr) {
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(content.data()), content.size());
    jpeg_read_header(&info, TRUE);
    info.out_color_space = JCS_RGB;
    return true;
  }
  jpeg_start_decompress(&info);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = pixels + static_cast<size_t>(info.output_scanline) * info.output_width * 3;
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  return true;
}

at::Tensor decode_jpeg(const std::string& path, const std::string& content) {
  jpeg_decompress_struct info;
  JpegErrors errors;
  info.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = fail_jpeg;
  errors.manager.output_message = [](j_common_ptr) {};
  at::Tensor pixels;
  bool whole = decode_jpeg_into(content, info, errors, nullptr);
  if (whole) {
    pixels = make_pixels(path, info.image_height, info.image_width);
    whole = decode_jpeg_into(content, info, errors, pixels.mutable_data_ptr<uint8_t>());
  }
  const bool damaged = whole && errors.manager.num_warnings > 0;
  jpeg_destroy_decompress(&info);
  if (!whole) throw Error(path + " is damaged: " + errors.said);
  if (damaged) throw Error(path + " is damaged: its data are corrupt or end early");
  return pixels;
}
#endif

#ifdef CAMFAST_PNG
at::Tensor decode_png(const std::string& path, const std::string& content) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  if (!png_image_begin_read_from_memory(&image, content.data(), content.size()))
    throw Error(path + " is damaged: " + image.message);
  image.format = PNG_FORMAT_RGB;
  at::Tensor pixels;
  try {
    pixels = make_pixels(path, image.height, image.width);
  } catch (...) {
    png_image_free(&image);
    throw;
  }
  const png_color white{255, 255, 255};
  if (!png_image_finish_read(&image, &white, pixels.mutable_data_ptr(), 0, nullptr))
    throw Error(path + " is damaged: " + image.message);
  return pixels;
}

std::string encode_png(const std::string& path, const at::Tensor& pixels) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.height = static_cast<png_uint_32>(pixels.size(0));
  image.width = static_cast<png_uint_32>(pixels.size(1));
  image.format = PNG_FORMAT_RGB;
  std::string content(PNG_IMAGE_PNG_SIZE_MAX(image), '\0');
  png_alloc_size_t length = content.size();
  if (!png_image_write_to_memory(&image, content.data(), &length, 0, pixels.const_data_ptr(), 0, nullptr))
    throw Error(path + " cannot be written: " + image.message);
  content.resize(length);
  return content;
}
#endif

}  // namespace

at::Tensor read_photo(const std::string& path) {
  const std::string content = read_file(path);
  if (starts_with(content, "P6")) return decode_ppm(path, content);
  if (starts_with(content, "\xff\xd8\xff")) {
#ifdef CAMFAST_JPEG
    return decode_jpeg(path, content);
#else
    throw Error(path + " is a JPEG, and this camfast-run was built without libjpeg; apt install libjpeg-dev, and build again");
#endif
  }
  if (starts_with(content, "\x89PNG\r\n\x1a\n")) {
#ifdef CAMFAST_PNG
    return decode_png(path, content);
#else
    throw Error(path + " is a PNG, and this camfast-run was built without libpng; apt install libpng-dev, and build again");
#endif
  }
  throw Error(path + " is no photo that camfast-run reads (JPEG, PNG, PPM)");
}

void write_photo(const std::string& path, const at::Tensor& pixels) {
  const at::Tensor whole = pixels.contiguous();
  const std::string suffix = suffix_of(path);
  if (suffix == ".ppm") {
    std::string content = "P6\n" + std::to_string(whole.size(1)) + " " + std::to_string(whole.size(0)) + "\n255\n";
    content.append(static_cast<const char*>(whole.const_data_ptr()), whole.nbytes());
    return write_file(path, content);
  }
#ifdef CAMFAST_PNG
  if (suffix == ".png") return write_file(path, encode_png(path, whole));
  throw Error(path + " has no name of a picture that camfast-run writes (.png, .ppm)");
#else
  throw Error(path + ": this camfast-run writes .ppm alone; apt install libpng-dev, and build again, for .png");
#endif
}

bool is_photo_name(const std::string& path) {
  const std::string suffix = suffix_of(path);
  return suffix == ".jpg" || suffix == ".jpeg" || suffix == ".png" || suffix == ".ppm";
}

}  // namespace camfast
