#include "locus/comm/mpi.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

#include "locus/base/error.h"
#include "locus/cluster/launch.h"
#include "locus/comm/mpi/module.h"

namespace locus::comm {
namespace {

namespace fs = std::filesystem;

// Beside the program, in a build folder and installed; LOCUS_MPI_MODULE names another.
fs::path module_path() {
  const char* path = std::getenv("LOCUS_MPI_MODULE");
  if (path != nullptr) return path;
  return fs::read_symlink("/proc/self/exe").parent_path() / "locus-mpi.so";
}

// Null, and the reason in `why`. What was loaded stays so: MPI libraries cannot be unloaded.
MpiFactory* find_factory(std::string* why) {
  const fs::path path = module_path();
  if (!fs::exists(path)) {
    *why = format(
        "{} is missing: Locus was built without MPI, or not installed completely; build it with "
        "-DLOCUS_MPI=ON",
        path.string());
    return nullptr;
  }
  // Global, because the plug-ins of some MPI libraries look for its symbols there.
  void* module = dlopen(fs::absolute(path).c_str(), RTLD_NOW | RTLD_GLOBAL);
  void* factory = module == nullptr ? nullptr : dlsym(module, kMpiFactoryName);
  if (factory == nullptr) {
    const char* error = dlerror();
    *why = format("{} cannot be loaded: {}", path.string(), error == nullptr ? "?" : error);
  }
  return reinterpret_cast<MpiFactory*>(factory);
}

}  // namespace

bool mpi_is_available(std::string* why) { return find_factory(why) != nullptr; }

std::unique_ptr<Transport> make_mpi_transport(double timeout_s, int64_t max_count) {
  std::string why;
  MpiFactory* factory = find_factory(&why);
  if (factory == nullptr) throw ConfigError("comm.backend = \"mpi\": {}", why);
  const cluster::Launch launch =
      cluster::read_launch(cluster::process_environment(), cluster::host_name());
  std::unique_ptr<Transport> transport(factory(timeout_s, max_count));
  // A process that MPI's launcher did not start makes a world of its own.
  const int64_t size = transport->world_size();
  if (size == 1 && launch.launcher == "none") {
    throw ConfigError(
        "comm.backend = \"mpi\": no launcher has started this process; start it with mpirun -n");
  }
  if (launch.launcher != "none" && size != launch.world_size) {
    throw ConfigError(
        "comm.backend = \"mpi\": {} has started {} processes, but MPI sees {}; start them with the "
        "mpirun of the MPI library that Locus was built with, or with srun --mpi=pmix",
        launch.launcher, launch.world_size, size);
  }
  return transport;
}

}  // namespace locus::comm
