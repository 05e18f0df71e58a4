// all_to_all of the transport against plain loops of MPI, by turns in one run:
//
//   mpirun -n 4 mpi_bench [BYTES ...]
//
// BYTES go from each rank to each. One line for each size and way: the median over the rounds, and
// the time in compute that an exchange in the background leaves to be waited for.
#include <ATen/ATen.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "locus/comm/mpi.h"

namespace locus::comm {
namespace {

constexpr int kNumRounds = 41;

using Call = std::function<void()>;

struct Way {
  std::string name;
  Call call;
  std::vector<double> seconds;  // of one call, by round
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Seconds of one call, the mean of the ranks.
double measure(const Call& call, int num_calls) {
  MPI_Barrier(MPI_COMM_WORLD);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < num_calls; ++i) call();
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  double sum = taken.count() / num_calls;
  int num_ranks = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &num_ranks);
  MPI_Allreduce(MPI_IN_PLACE, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  return sum / num_ranks;
}

void exchange_by_messages(char* out, const char* in, int bytes, int rank, int size) {
  std::vector<MPI_Request> requests(static_cast<size_t>(2 * size), MPI_REQUEST_NULL);
  for (int i = 1; i < size; ++i) {
    const int from = (rank - i + size) % size;
    const int to = (rank + i) % size;
    MPI_Irecv(out + int64_t{from} * bytes, bytes, MPI_BYTE, from, 0, MPI_COMM_WORLD,
              &requests[static_cast<size_t>(2 * i)]);
    MPI_Isend(in + int64_t{to} * bytes, bytes, MPI_BYTE, to, 0, MPI_COMM_WORLD,
              &requests[static_cast<size_t>(2 * i + 1)]);
  }
  std::copy_n(in + int64_t{rank} * bytes, bytes, out + int64_t{rank} * bytes);
  MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
}

// Something to do for about `seconds`.
double compute(double seconds) {
  const auto begin = std::chrono::steady_clock::now();
  double x = 1.0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() <
         seconds) {
    for (int i = 0; i < 200; ++i) x = x * 1.0000001 + 1e-9;
  }
  return x;
}

void compare(ProcessGroup& group, int64_t bytes) {
  const auto size = static_cast<int>(group.size());
  const auto rank = static_cast<int>(group.rank());
  const at::Tensor in = at::full({size, bytes}, rank, at::kByte);
  const at::Tensor out = at::zeros({size, bytes}, at::kByte);
  const auto* source = static_cast<const char*>(in.const_data_ptr());
  auto* target = static_cast<char*>(out.mutable_data_ptr());
  const std::vector<int64_t> rows(static_cast<size_t>(size), 1);
  const std::vector<int> counts(static_cast<size_t>(size), static_cast<int>(bytes));
  std::vector<int> offsets(counts.size());
  for (int r = 0; r < size; ++r) offsets[static_cast<size_t>(r)] = r * static_cast<int>(bytes);
  std::vector<Way> ways{
      {"MPI_Alltoallv",
       [&] {
         MPI_Alltoallv(source, counts.data(), offsets.data(), MPI_BYTE, target, counts.data(),
                       offsets.data(), MPI_BYTE, MPI_COMM_WORLD);
       },
       {}},
      {"MPI_Ialltoallv",
       [&] {
         MPI_Request request = MPI_REQUEST_NULL;
         MPI_Ialltoallv(source, counts.data(), offsets.data(), MPI_BYTE, target, counts.data(),
                        offsets.data(), MPI_BYTE, MPI_COMM_WORLD, &request);
         MPI_Wait(&request, MPI_STATUS_IGNORE);
       },
       {}},
      {"MPI_Isend, MPI_Irecv",
       [&] { exchange_by_messages(target, source, static_cast<int>(bytes), rank, size); },
       {}},
      {"all_to_all", [&] { group.all_to_all(out, in, rows, rows)->wait(); }, {}}};
  const int num_calls = static_cast<int>(std::clamp<int64_t>((int64_t{4} << 20) / bytes, 1, 200));
  for (Way& way : ways) measure(way.call, num_calls);
  for (int round = 0; round < kNumRounds; ++round) {
    for (Way& way : ways) way.seconds.push_back(measure(way.call, num_calls));
  }
  const double plain = median(ways.front().seconds);
  const double full = median(ways.back().seconds);
  Way behind{"all_to_all behind as much compute",
             [&] {
               const Pending work = group.all_to_all(out, in, rows, rows);
               compute(full);
               work->wait();
             },
             {}};
  for (int round = 0; round < kNumRounds; ++round) {
    behind.seconds.push_back(measure(behind.call, num_calls));
  }
  ways.push_back(behind);
  if (rank != 0) return;
  for (const Way& way : ways) {
    const double seconds = median(way.seconds);
    std::printf("%10lld B  %-34s %10.1f us  %8.1f MB/s  %5.2f of the time of MPI_Alltoallv\n",
                static_cast<long long>(bytes), way.name.c_str(), seconds * 1e6,
                static_cast<double>(bytes) * (size - 1) / seconds / 1e6, seconds / plain);
  }
}

void compare_all(std::vector<int64_t> sizes) {
  const std::unique_ptr<Transport> transport = make_mpi_transport(60.0);
  std::vector<int64_t> ranks(static_cast<size_t>(transport->world_size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  const std::shared_ptr<ProcessGroup> group = transport->make_group("world", ranks);
  if (sizes.empty()) sizes = {4 << 10, 64 << 10, 1 << 20, 16 << 20};
  for (const int64_t bytes : sizes) compare(*group, bytes);
}

}  // namespace
}  // namespace locus::comm

int main(int argc, char** argv) {
  std::vector<int64_t> sizes;
  for (int i = 1; i < argc; ++i) sizes.push_back(std::stoll(argv[i]));
  locus::comm::compare_all(sizes);
}
