// Numbers of experts as settings have them: "0-3, 6".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace locus::moe {

// Rising, each once; nothing where the text is of another form, or empty.
std::optional<std::vector<int64_t>> parse_expert_numbers(std::string_view text);

// Of rising numbers, as short as it can be said.
std::string expert_numbers_text(const std::vector<int64_t>& numbers);

}  // namespace locus::moe
