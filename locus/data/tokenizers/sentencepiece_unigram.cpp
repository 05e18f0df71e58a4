// Unigram: the pieces with the highest sum of scores (Viterbi), with the library's rounding.
//
// A word's entry in the cache, as numbers of 32 bits:
//
//   number of ids | number of scores | margin | ids | scores
//
// of the best path, which is better than the second best by the margin.
#include <algorithm>
#include <array>
#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "locus/data/tokenizers/scratch_pool.h"
#include "locus/data/tokenizers/sentencepiece_words.h"
#include "locus/data/tokenizers/word_cache.h"

namespace locus::data {
namespace {

using Type = SentencePieceModel::Type;

constexpr float kUnknownPenalty = 10;        // the library's kUnkPenalty
constexpr double kUserDefinedPenalty = 0.1;  // the library's, for a user-defined piece
constexpr int32_t kUnknown = -1;

// Pieces by their bytes. The children of a node stand side by side in the order of their bytes.
class PieceTrie {
 public:
  explicit PieceTrie(const SentencePieceModel& model) {
    std::vector<std::pair<std::string, int32_t>> pieces;
    for (size_t id = 0; id < model.pieces.size(); ++id) {
      if (model.pieces[id].type != Type::kNormal) continue;
      pieces.emplace_back(unmarked(model.pieces[id].text), static_cast<int32_t>(id));
    }
    std::ranges::sort(pieces);
    build(pieces);
  }

  // Calls use(bytes, id) for each piece that `text` begins with, the shortest first.
  template <class Use>
  void for_each_prefix(std::string_view text, Use use) const {
    size_t node = roots_[static_cast<unsigned char>(text[0])];
    for (size_t i = 1; node != 0; ++i) {
      if (const int32_t id = nodes_[node].id; id >= 0) use(i, id);
      if (i == text.size()) return;
      node = child(nodes_[node], text[i]);
    }
  }

 private:
  struct Node {
    uint32_t first_child = 0;
    uint32_t num_children = 0;
    int32_t id = -1;  // of the piece that ends here; -1: none
  };

  // 0: there is none.
  size_t child(const Node& node, char byte) const {
    const char* const begin = bytes_.data() + node.first_child;
    const char* const end = begin + node.num_children;
    const char* const found = std::find(begin, end, byte);
    return found == end ? 0 : static_cast<size_t>(found - bytes_.data());
  }

  // Level by level: a node is the run of pieces with the same beginning.
  void build(const std::vector<std::pair<std::string, int32_t>>& pieces) {
    struct Run {
      size_t begin, end;
    };
    std::vector<Run> runs{{0, pieces.size()}};
    nodes_.resize(1);
    bytes_ = std::string(1, '\0');
    size_t level_end = 1, depth = 0;
    for (size_t node = 0; node < runs.size(); ++node) {
      if (node == level_end) level_end = runs.size(), ++depth;
      const Run run = runs[node];
      size_t begin = run.begin;
      if (begin < run.end && pieces[begin].first.size() == depth) {
        nodes_[node].id = pieces[begin++].second;
      }
      nodes_[node].first_child = static_cast<uint32_t>(runs.size());
      while (begin < run.end) {
        const char byte = pieces[begin].first[depth];
        size_t end = begin;
        while (end < run.end && pieces[end].first[depth] == byte) ++end;
        runs.push_back({begin, end});
        nodes_.emplace_back();
        bytes_ += byte;
        begin = end;
      }
      nodes_[node].num_children = static_cast<uint32_t>(runs.size()) - nodes_[node].first_child;
    }
    for (size_t byte = 0; byte < roots_.size(); ++byte) {
      roots_[byte] = child(nodes_[0], static_cast<char>(byte));
    }
  }

  std::vector<Node> nodes_;  // 0: the root
  std::string bytes_;        // that lead to a node
  std::array<size_t, 256> roots_{};
};

// A candidate piece between two places of a word.
struct Edge {
  uint32_t begin = 0;
  uint32_t end = 0;
  int32_t id = kUnknown;
  float score = 0;
};

// The library's sum: single precision for unknown characters, else rounded from double precision.
double sum(float before, float score, int32_t id) {
  if (id == kUnknown) return before + score;
  return static_cast<double>(score) + static_cast<double>(before);
}

class UnigramEncoder final : public SentencePieceEncoder {
 public:
  explicit UnigramEncoder(const SentencePieceModel& model)
      : words_(model), trie_(model), scratches_([] { return std::make_unique<Scratch>(); }) {
    float least = FLT_MAX, most = FLT_MIN;  // as the library begins, which is why most is not < 0
    for (const auto& piece : model.pieces) {
      scores_.push_back(piece.score);
      if (piece.type == Type::kUserDefined) divisible_ = false;
      if (piece.type != Type::kNormal) continue;
      least = std::min(least, piece.score);
      most = std::max(most, piece.score);
      if (std::remainder(piece.score, kScoreStep) != 0) divisible_ = false;
    }
    unknown_score_ = least - kUnknownPenalty;
    lone_scores_.assign(scores_.begin(), scores_.end());
    for (size_t id = 0; id < model.pieces.size(); ++id) {
      if (model.pieces[id].type == Type::kUserDefined)
        lone_scores_[id] = most - kUserDefinedPenalty;
    }
    largest_score_ = std::max(std::abs(unknown_score_), std::abs(most));
  }

  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 3);
    const auto scratch = scratches_.borrow();
    float before = 0;  // the sum up to here
    words_.for_each(
        text, [&](std::string_view word) { encode_word(word, &before, &*scratch, &ids); },
        [&](unsigned char byte) {
          const int32_t id = words_.lone_id(byte);
          ids.push_back(id);
          before = static_cast<float>(lone_scores_[static_cast<size_t>(id)] + before);
        });
    return ids;
  }

  bool is_divisible() const override { return divisible_; }

 private:
  struct Node {
    float sum = 0;
    int32_t edge = -1;  // that ends here on the best path
  };
  struct ExactNode {
    double best = 0;
    double second = -std::numeric_limits<double>::infinity();
    int32_t edge = -1;
  };
  struct Scratch {
    WordCache cache;
    std::vector<Edge> edges;
    std::vector<Node> nodes;
    std::vector<ExactNode> exact;
    std::vector<const Edge*> path;
    std::vector<int32_t> ids;
    std::vector<int32_t> values;
  };

  void encode_word(std::string_view word, float* before, Scratch* scratch,
                   std::vector<int32_t>* ids) const {
    const bool cached = word.size() <= WordCache::kMaxWordBytes;
    if (!cached) {
      find_edges(word, &scratch->edges);
      return replay(word, before, scratch, ids);
    }
    const uint64_t hash = WordCache::hash(word);
    const int32_t* values = scratch->cache.find(word, hash);
    if (values == nullptr) {
      work_out(word, scratch);
      scratch->cache.insert(word, hash, scratch->values);
      values = scratch->cache.find(word, hash);
    }
    const auto num_ids = static_cast<size_t>(values[1]),
               num_scores = static_cast<size_t>(values[2]);
    const auto margin = std::bit_cast<float>(values[3]);
    const int32_t* cached_ids = values + 4;
    const int32_t* cached_scores = cached_ids + num_ids;
    const auto length = static_cast<float>(word.size());
    // Each sum of two paths is off by at most 2^-24 of the largest.
    if (margin <= length * (std::abs(*before) + length * largest_score_) * 0x1p-22f) {
      find_edges(word, &scratch->edges);
      return replay(word, before, scratch, ids);
    }
    ids->insert(ids->end(), cached_ids, cached_ids + num_ids);
    for (size_t i = 0; i < num_scores; ++i) {
      const auto score = std::bit_cast<float>(cached_scores[i]);
      const int32_t id = score == unknown_score_ ? kUnknown : 0;
      *before = static_cast<float>(sum(*before, score, id));
    }
  }

  // All candidates, in the library's order.
  void find_edges(std::string_view word, std::vector<Edge>* edges) const {
    edges->clear();
    for (size_t begin = 0; begin < word.size();) {
      const size_t length = character_bytes(word.substr(begin));
      bool single = false;
      trie_.for_each_prefix(word.substr(begin), [&](size_t num_bytes, int32_t id) {
        edges->push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(begin + num_bytes),
                          id, scores_[static_cast<size_t>(id)]});
        single = single || num_bytes == length;
      });
      if (!single) {
        edges->push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(begin + length),
                          kUnknown, unknown_score_});
      }
      begin += length;
    }
  }

  // The library's sums over the candidates.
  void replay(std::string_view word, float* before, Scratch* scratch,
              std::vector<int32_t>* ids) const {
    scratch->nodes.assign(word.size() + 1, {});
    scratch->nodes[0].sum = *before;
    for (size_t i = 0; i < scratch->edges.size(); ++i) {
      const Edge& edge = scratch->edges[i];
      Node& end = scratch->nodes[edge.end];
      const double candidate = sum(scratch->nodes[edge.begin].sum, edge.score, edge.id);
      if (end.edge < 0 || candidate > static_cast<double>(end.sum)) {
        end = {static_cast<float>(candidate), static_cast<int32_t>(i)};
      }
    }
    *before = scratch->nodes.back().sum;
    follow(word, scratch, [&](size_t place) { return scratch->nodes[place].edge; });
    append_ids(word, scratch->path, ids);
  }

  // Sets scratch->path from edge_at(place), the edge that ends there.
  template <class EdgeAt>
  static void follow(std::string_view word, Scratch* scratch, EdgeAt edge_at) {
    scratch->path.clear();
    for (size_t place = word.size(); place > 0; place = scratch->path.back()->begin) {
      scratch->path.push_back(&scratch->edges[static_cast<size_t>(edge_at(place))]);
    }
    std::ranges::reverse(scratch->path);
  }

  void append_ids(std::string_view word, const std::vector<const Edge*>& path,
                  std::vector<int32_t>* ids) const {
    for (const Edge* edge : path) {
      if (edge->id != kUnknown) {
        ids->push_back(edge->id);
        continue;
      }
      const std::string_view character = word.substr(edge->begin, edge->end - edge->begin);
      for (const char byte : character == " " ? kSpaceMark : character) {
        ids->push_back(words_.byte_id(byte));
      }
    }
  }

  // The best path and its margin in double precision, as an entry of the cache.
  void work_out(std::string_view word, Scratch* scratch) const {
    find_edges(word, &scratch->edges);
    scratch->exact.assign(word.size() + 1, {});
    for (size_t i = 0; i < scratch->edges.size(); ++i) {
      const Edge& edge = scratch->edges[i];
      const ExactNode& begin = scratch->exact[edge.begin];
      ExactNode& end = scratch->exact[edge.end];
      const double candidate = begin.best + static_cast<double>(edge.score);
      if (end.edge < 0 || candidate > end.best) {
        if (end.edge >= 0) end.second = std::max(end.second, end.best);
        end.best = candidate;
        end.edge = static_cast<int32_t>(i);
      } else {
        end.second = std::max(end.second, candidate);
      }
      end.second = std::max(end.second, begin.second + static_cast<double>(edge.score));
    }
    const ExactNode& last = scratch->exact.back();
    follow(word, scratch, [&](size_t place) { return scratch->exact[place].edge; });
    scratch->ids.clear();
    append_ids(word, scratch->path, &scratch->ids);
    const auto margin = static_cast<float>(std::min(last.best - last.second, 1e30));
    scratch->values = {static_cast<int32_t>(scratch->ids.size()),
                       static_cast<int32_t>(scratch->path.size()), std::bit_cast<int32_t>(margin)};
    scratch->values.insert(scratch->values.end(), scratch->ids.begin(), scratch->ids.end());
    for (const Edge* edge : scratch->path) {
      scratch->values.push_back(std::bit_cast<int32_t>(edge->score));
    }
  }

  const SentencePieceWords words_;
  const PieceTrie trie_;
  std::vector<float> scores_;        // by id
  std::vector<double> lone_scores_;  // by id
  float unknown_score_ = 0;
  float largest_score_ = 0;
  bool divisible_ = true;
  mutable ScratchPool<Scratch> scratches_;
};

}  // namespace

std::unique_ptr<SentencePieceEncoder> make_unigram_encoder(const SentencePieceModel& model) {
  return std::make_unique<UnigramEncoder>(model);
}

}  // namespace locus::data
