// A group of ranks that call the same collectives in the same order. Behind it: Gloo, NCCL (both
// through c10d) or MPI; in tests also wrappers that delay and fail.
//
// Every call starts the operation and returns; its tensors must stay as they are until wait() of
// the returned work has come back. Tensors are contiguous and of equal type on all ranks. A group
// is used by one thread at a time.
//
// R ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace locus::comm {

enum class Reduce { kSum, kMax, kMin };

// An operation in flight. Destruction waits, without throwing.
class Work {
 public:
  virtual ~Work() = default;
  virtual bool is_done() = 0;
  // Until the result is there. CommError where a peer was lost or the deadline has passed.
  virtual void wait() = 0;
  // The same for a thread whose rank computes meanwhile: leaves the cores to others.
  virtual void wait_patiently() { wait(); }
};

using Pending = std::unique_ptr<Work>;

class ProcessGroup {
 public:
  // `ranks`: the members by their rank in the world; `rank`: the place of this process in it.
  ProcessGroup(std::string name, std::vector<int64_t> ranks, int64_t rank)
      : name_(std::move(name)), ranks_(std::move(ranks)), rank_(rank) {}
  virtual ~ProcessGroup() = default;

  const std::string& name() const { return name_; }  // "world", "ep", ...: for messages
  int64_t rank() const { return rank_; }
  int64_t size() const { return static_cast<int64_t>(ranks_.size()); }
  int64_t world_rank(int64_t rank) const { return ranks_[static_cast<size_t>(rank)]; }

  // In place: float32, float64, int32 or int64; bfloat16 where the transport adds it.
  virtual Pending all_reduce(const at::Tensor& x, Reduce op) = 0;
  // out [R * n, ...]: x [n, ...] of each rank, in order of ranks.
  virtual Pending all_gather(const at::Tensor& out, const at::Tensor& x) = 0;
  // out [n, ...]: this rank's part of the sum of x [R * n, ...].
  virtual Pending reduce_scatter(const at::Tensor& out, const at::Tensor& x) = 0;
  virtual Pending broadcast(const at::Tensor& x, int64_t root) = 0;
  // Rows of `in` go to the ranks in order, in_rows[r] of them to rank r; `out` takes out_rows[r]
  // from each. Any number may be zero. Any type; the rows are equally long on all ranks.
  virtual Pending all_to_all(const at::Tensor& out, const at::Tensor& in,
                             const std::vector<int64_t>& out_rows,
                             const std::vector<int64_t>& in_rows) = 0;
  virtual Pending barrier() = 0;

 private:
  std::string name_;
  std::vector<int64_t> ranks_;
  int64_t rank_;
};

// Makes groups out of the ranks of the world. Every rank of the world makes the same calls in the
// same order; the ranks that they name in one call are the same or have none in common (each its
// own part of the world). Whoever is not among those it names gets null.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::string name() const = 0;  // gloo | mpi | nccl
  virtual int64_t rank() const = 0;
  virtual int64_t world_size() const = 0;
  virtual std::shared_ptr<ProcessGroup> make_group(const std::string& name,
                                                   const std::vector<int64_t>& ranks) = 0;
};

}  // namespace locus::comm
