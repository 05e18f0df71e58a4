#include "locus/comm/mpi/group.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "locus/base/error.h"

namespace locus::comm {
namespace {

// One tag suffices: a group's messages between two ranks arrive in the order of its calls.
constexpr int kTag = 0;

class MpiWork : public Work {
 public:
  MpiWork(std::shared_ptr<Engine> engine, std::shared_ptr<Operation> operation)
      : engine_(std::move(engine)), operation_(std::move(operation)) {}
  ~MpiWork() override {
    try {
      wait();
    } catch (const CommError&) {
      // Whoever cares has called wait().
    }
  }

  bool is_done() override { return operation_ == nullptr || operation_->is_done; }

  void wait() override { finish(/*is_urgent=*/true); }
  void wait_patiently() override { finish(/*is_urgent=*/false); }

 private:
  void finish(bool is_urgent) {
    if (operation_ == nullptr) return;
    engine_->wait(*operation_, is_urgent);
    if (operation_->finish) operation_->finish();
    operation_ = nullptr;
  }

  std::shared_ptr<Engine> engine_;
  std::shared_ptr<Operation> operation_;
};

Pending nothing_to_wait_for() { return std::make_unique<MpiWork>(nullptr, nullptr); }

MPI_Datatype to_mpi(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return MPI_FLOAT;
    case at::kDouble: return MPI_DOUBLE;
    case at::kInt: return MPI_INT32_T;
    case at::kLong: return MPI_INT64_T;
    case at::kShort: return MPI_INT16_T;
    case at::kChar: return MPI_INT8_T;
    case at::kByte:
    case at::kBool: return MPI_UINT8_T;
    default: LOCUS_CHECK(false, "mpi reduces no {}", at::toString(type));
  }
}

// The sum of truth values is their "or", as in ATen; any other byte than 0 and 1 would be no value.
MPI_Op to_mpi(Reduce op, at::ScalarType type) {
  switch (op) {
    case Reduce::kSum: return type == at::kBool ? MPI_MAX : MPI_SUM;
    case Reduce::kMax: return MPI_MAX;
    case Reduce::kMin: return MPI_MIN;
  }
  LOCUS_CHECK(false, "reduction {}", static_cast<int>(op));
}

// MPI knows no 16-bit floats. Theirs is summed up in float32 and rounded once.
at::Tensor widened(const at::Tensor& x) {
  const at::ScalarType type = x.scalar_type();
  return type == at::kBFloat16 || type == at::kHalf ? x.detach().to(at::kFloat) : x;
}

void check_tensor(const at::Tensor& x, const char* name) {
  LOCUS_CHECK(x.is_cpu() && x.is_contiguous(), "{}: {}, {}contiguous", name,
              c10::DeviceTypeName(x.device().type()), x.is_contiguous() ? "" : "not ");
}

// [0, total) in pieces that MPI can count.
template <class Piece>
void in_pieces(int64_t total, int64_t limit, Piece piece) {
  for (int64_t begin = 0; begin < total; begin += limit) {
    piece(begin, static_cast<int>(std::min(limit, total - begin)));
  }
}

int64_t sum_before(size_t end, const std::vector<int64_t>& rows) {
  return std::accumulate(rows.begin(), rows.begin() + static_cast<int64_t>(end), int64_t{0});
}

class MpiGroup : public ProcessGroup {
 public:
  MpiGroup(std::shared_ptr<Engine> engine, std::shared_ptr<const Members> members,
           const std::vector<int64_t>& ranks)
      : ProcessGroup(members->name, ranks, members->rank),
        engine_(std::move(engine)),
        members_(std::move(members)),
        comm_(members_->comm) {}

  Pending all_reduce(const at::Tensor& x, Reduce op) override {
    check_tensor(x, "all_reduce");
    if (size() == 1 || x.numel() == 0) return nothing_to_wait_for();
    const at::Tensor result = widened(x);
    const std::shared_ptr<Operation> operation = new_operation("all_reduce", {x, result});
    if (!result.is_same(x)) operation->finish = copy(x, result);
    const MPI_Datatype type = to_mpi(result.scalar_type());
    const MPI_Op mpi_op = to_mpi(op, result.scalar_type());
    auto* data = static_cast<char*>(result.mutable_data_ptr());
    return start(operation, [&, this] {
      in_pieces(result.numel(), engine_->max_count(), [&](int64_t begin, int count) {
        check(MPI_Iallreduce(MPI_IN_PLACE, data + begin * result.element_size(), count, type,
                             mpi_op, comm_, &operation->requests.emplace_back()),
              "MPI_Iallreduce", *operation);
      });
    });
  }

  Pending all_gather(const at::Tensor& out, const at::Tensor& x) override {
    check_tensor(x, "all_gather");
    check_tensor(out, "all_gather");
    check_parts(out, x);
    const auto num_bytes = static_cast<int64_t>(x.nbytes());
    const auto* source = static_cast<const char*>(x.const_data_ptr());
    auto* target = static_cast<char*>(out.mutable_data_ptr());
    if (num_bytes == 0) return nothing_to_wait_for();
    if (size() == 1) {
      std::memcpy(target, source, static_cast<size_t>(num_bytes));
      return nothing_to_wait_for();
    }
    const std::shared_ptr<Operation> operation = new_operation("all_gather", {x, out});
    return start(operation, [&, this] {
      in_pieces(num_bytes, engine_->max_count(), [&](int64_t begin, int count) {
        const Strided piece(*this, count, num_bytes, *operation);
        check(MPI_Iallgather(source + begin, count, MPI_BYTE, target + begin, 1, piece.type, comm_,
                             &operation->requests.emplace_back()),
              "MPI_Iallgather", *operation);
      });
    });
  }

  // By messages and a sum of our own, in order of ranks. MPI_Ireduce_scatter_block of Open
  // MPI 4.1.4 took 1.5 to 3 times as long (2 and 4 ranks on one node, 64 KiB to 16 MiB to each);
  // this needs room for x again.
  Pending reduce_scatter(const at::Tensor& out, const at::Tensor& x) override {
    check_tensor(x, "reduce_scatter");
    check_tensor(out, "reduce_scatter");
    check_parts(x, out);
    const int64_t num = out.numel();
    if (num == 0) return nothing_to_wait_for();
    const at::Tensor parts = at::empty({size(), num}, x.options().requires_grad(false));
    const std::shared_ptr<Operation> operation = new_operation("reduce_scatter", {x, out, parts});
    operation->finish = [out, parts] {
      const at::NoGradGuard no_grad;
      // Accumulates 16-bit floats in float32.
      out.copy_(at::sum(parts, {0}, false, parts.scalar_type()).view_as(out));
    };
    return exchange(operation, parts, x, std::vector<int64_t>(static_cast<size_t>(size()), num),
                    std::vector<int64_t>(static_cast<size_t>(size()), num), x.element_size());
  }

  Pending broadcast(const at::Tensor& x, int64_t root) override {
    check_tensor(x, "broadcast");
    LOCUS_CHECK(root >= 0 && root < size(), "root {} of {}", root, size());
    if (size() == 1 || x.numel() == 0) return nothing_to_wait_for();
    const std::shared_ptr<Operation> operation = new_operation("broadcast", {x});
    auto* data = static_cast<char*>(x.mutable_data_ptr());
    return start(operation, [&, this] {
      in_pieces(static_cast<int64_t>(x.nbytes()), engine_->max_count(),
                [&](int64_t begin, int count) {
                  check(MPI_Ibcast(data + begin, count, MPI_BYTE, static_cast<int>(root), comm_,
                                   &operation->requests.emplace_back()),
                        "MPI_Ibcast", *operation);
                });
    });
  }

  Pending all_to_all(const at::Tensor& out, const at::Tensor& in,
                     const std::vector<int64_t>& out_rows,
                     const std::vector<int64_t>& in_rows) override {
    check_rows(out, in, out_rows, in_rows);
    const int64_t row_bytes = in.element_size() * c10::multiply_integers(in.sizes().slice(1));
    return exchange(new_operation("all_to_all", {out, in}), out, in, out_rows, in_rows, row_bytes);
  }

  Pending barrier() override {
    if (size() == 1) return nothing_to_wait_for();
    const std::shared_ptr<Operation> operation = new_operation("barrier", {});
    return start(operation, [&, this] {
      check(MPI_Ibarrier(comm_, &operation->requests.emplace_back()), "MPI_Ibarrier", *operation);
    });
  }

 private:
  // A piece of every rank's part, where the parts are further apart than the piece is long.
  struct Strided {
    Strided(MpiGroup& group, int count, int64_t part_bytes, const Operation& operation) {
      MPI_Datatype bytes = MPI_DATATYPE_NULL;
      group.check(MPI_Type_contiguous(count, MPI_BYTE, &bytes), "MPI_Type_contiguous", operation);
      group.check(MPI_Type_create_resized(bytes, 0, static_cast<MPI_Aint>(part_bytes), &type),
                  "MPI_Type_create_resized", operation);
      group.check(MPI_Type_commit(&type), "MPI_Type_commit", operation);
      MPI_Type_free(&bytes);
    }
    // What is in flight with it goes on.
    ~Strided() { MPI_Type_free(&type); }
    Strided(const Strided&) = delete;
    Strided& operator=(const Strided&) = delete;

    MPI_Datatype type = MPI_DATATYPE_NULL;
  };

  std::shared_ptr<Operation> new_operation(const char* name, at::ArrayRef<at::Tensor> tensors) {
    auto operation = std::make_shared<Operation>();
    operation->name = name;
    operation->members = members_;
    operation->tensors.append(tensors.begin(), tensors.end());
    for (const at::Tensor& x : tensors) {
      operation->num_bytes = std::max(operation->num_bytes, static_cast<int64_t>(x.nbytes()));
    }
    return operation;
  }

  template <class Post>
  Pending start(std::shared_ptr<Operation> operation, Post post) {
    engine_->start(operation, post);
    return std::make_unique<MpiWork>(engine_, std::move(operation));
  }

  void check(int code, const char* call, const Operation& operation) {
    engine_->check(code, call, operation);
  }

  static std::function<void()> copy(const at::Tensor& out, const at::Tensor& result) {
    return [out, result] {
      const at::NoGradGuard no_grad;
      out.copy_(result);
    };
  }

  void check_parts(const at::Tensor& whole, const at::Tensor& part) const {
    LOCUS_CHECK(whole.numel() == part.numel() * size(), "{} elements are not {} x {}",
                whole.numel(), size(), part.numel());
    LOCUS_CHECK(whole.scalar_type() == part.scalar_type(), "{} and {}",
                at::toString(whole.scalar_type()), at::toString(part.scalar_type()));
  }

  void check_rows(const at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& out_rows,
                  const std::vector<int64_t>& in_rows) const {
    check_tensor(in, "all_to_all");
    check_tensor(out, "all_to_all");
    LOCUS_CHECK(in.dim() > 0 && out.dim() > 0 && in.sizes().slice(1) == out.sizes().slice(1) &&
                    in.scalar_type() == out.scalar_type(),
                "all_to_all: rows of different kinds");
    const auto num_ranks = static_cast<size_t>(size());
    LOCUS_CHECK(in_rows.size() == num_ranks && out_rows.size() == num_ranks, "{} and {} of {}",
                in_rows.size(), out_rows.size(), num_ranks);
    for (size_t r = 0; r < num_ranks; ++r) {
      LOCUS_CHECK(in_rows[r] >= 0 && out_rows[r] >= 0, "{} and {} rows", in_rows[r], out_rows[r]);
    }
    LOCUS_CHECK(sum_before(num_ranks, in_rows) == in.size(0) &&
                    sum_before(num_ranks, out_rows) == out.size(0),
                "{} of {}, {} of {}", sum_before(num_ranks, in_rows), in.size(0),
                sum_before(num_ranks, out_rows), out.size(0));
    const auto own = static_cast<size_t>(rank());
    LOCUS_CHECK(in_rows[own] == out_rows[own], "own rows: {} and {}", in_rows[own], out_rows[own]);
  }

  Pending exchange(const std::shared_ptr<Operation>& operation, const at::Tensor& out,
                   const at::Tensor& in, const std::vector<int64_t>& out_rows,
                   const std::vector<int64_t>& in_rows, int64_t row_bytes) {
    const auto* source = static_cast<const char*>(in.const_data_ptr());
    auto* target = static_cast<char*>(out.mutable_data_ptr());
    Pending work = start(operation, [&, this] {
      post_messages(target, source, out_rows, in_rows, row_bytes, *operation);
    });
    // After the others' parts have been sent off.
    const auto own = static_cast<size_t>(rank());
    if (in_rows[own] * row_bytes > 0) {
      std::memcpy(target + sum_before(own, out_rows) * row_bytes,
                  source + sum_before(own, in_rows) * row_bytes,
                  static_cast<size_t>(in_rows[own] * row_bytes));
    }
    return work;
  }

  // Everybody begins with its right neighbour, so that nobody is addressed by all at once.
  void post_messages(char* target, const char* source, const std::vector<int64_t>& out_rows,
                     const std::vector<int64_t>& in_rows, int64_t row_bytes, Operation& operation) {
    const auto each_message = [&, this](const std::vector<int64_t>& rows, auto post) {
      const size_t own = static_cast<size_t>(members_->rank);
      int64_t begin = sum_before(own, rows);
      for (size_t i = 1; i < rows.size(); ++i) {
        const size_t last = (own + i - 1) % rows.size();
        const size_t peer = (own + i) % rows.size();
        begin = peer == 0 ? 0 : begin + rows[last];
        in_pieces(rows[peer] * row_bytes, engine_->max_count(), [&](int64_t offset, int count) {
          post(begin * row_bytes + offset, count, static_cast<int>(peer),
               &operation.requests.emplace_back());
        });
      }
    };
    each_message(out_rows, [&](int64_t at, int count, int peer, MPI_Request* request) {
      check(MPI_Irecv(target + at, count, MPI_BYTE, peer, kTag, comm_, request), "MPI_Irecv",
            operation);
    });
    each_message(in_rows, [&](int64_t at, int count, int peer, MPI_Request* request) {
      check(MPI_Isend(source + at, count, MPI_BYTE, peer, kTag, comm_, request), "MPI_Isend",
            operation);
    });
  }

  std::shared_ptr<Engine> engine_;
  std::shared_ptr<const Members> members_;
  MPI_Comm comm_;
};

}  // namespace

std::shared_ptr<ProcessGroup> make_mpi_group(std::shared_ptr<Engine> engine,
                                             std::shared_ptr<const Members> members,
                                             const std::vector<int64_t>& ranks) {
  return std::make_shared<MpiGroup>(std::move(engine), std::move(members), ranks);
}

}  // namespace locus::comm
