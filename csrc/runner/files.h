// Whole files.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "camfast/explainer.h"

namespace camfast {

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  if (!file || !(content << file.rdbuf())) throw Error(path + " does not exist, is empty, or cannot be read");
  return content.str();
}

// The file appears under its name when it is whole.
inline void write_file(const std::string& path, const std::string& content) {
  const std::string temporary = path + "." + std::to_string(getpid()) + ".partial";
  {
    std::ofstream file(temporary, std::ios::binary);
    file << content;
    file.close();
    if (!file) {
      std::remove(temporary.c_str());
      throw Error(path + " cannot be written");
    }
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    std::remove(temporary.c_str());
    throw Error(path + " cannot be written");
  }
}

}  // namespace camfast
