// Cross-checks with Python packages, where a Python has them: the environment's LOCUS_PYTHON, the
// project's .venv, or python3.
#pragma once

#include <stdio.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/support/temp_folder.h"

namespace locus::test {

inline std::string python() {
  const char* named = std::getenv("LOCUS_PYTHON");
  if (named != nullptr) return named;
  const std::string own = LOCUS_SOURCE_DIR "/.venv/bin/python3";
  return std::filesystem::exists(own) ? own : "python3";
}

// `modules` as after "import": "numpy, safetensors".
inline bool python_has(const std::string& modules) {
  return std::system((python() + " -c 'import " + modules + "' > /dev/null 2>&1").c_str()) == 0;
}

// What the script prints, its complaints included.
inline std::string run_python(const std::string& script, const std::string& arguments) {
  const TempFolder folder;
  const std::string path = (folder / "script.py").string();
  std::ofstream(path) << script;
  FILE* pipe = ::popen((python() + " " + path + " " + arguments + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return "popen failed";
  std::string output;
  char buffer[4096];
  while (const size_t count = ::fread(buffer, 1, sizeof(buffer), pipe))
    output.append(buffer, count);
  ::pclose(pipe);
  return output;
}

}  // namespace locus::test
