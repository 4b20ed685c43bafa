// Photos: JPEG and PNG by their own libraries, where the build found them; PPM always.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace camfast {

// What pictures are written as where no name is given.
#ifdef CAMFAST_PNG
constexpr const char* kPictureSuffix = ".png";
#else
constexpr const char* kPictureSuffix = ".ppm";
#endif

// uint8 [H, W, 3]. Throws Error for what is no photo that this build reads.
at::Tensor read_photo(const std::string& path);

// A photo by the name that it has: .png or .ppm.
void write_photo(const std::string& path, const at::Tensor& pixels);

// Whether a file of a folder is taken for a photo, by the name that it has.
bool is_photo_name(const std::string& path);

}  // namespace camfast
