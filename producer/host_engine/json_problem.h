// Where and why a text is not JSON, in the words of Python's decoder, which clients of the original
// engine see. Pure; to be called for a text that a parser has refused.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace sigmacast::host_engine {

struct JsonProblem {
    std::size_t at = 0;  // In characters, not bytes.
    std::string_view what;
};

/// Nothing where Python would accept the text, or where it is nested more than 200 deep.
std::optional<JsonProblem> json_problem(std::string_view text);

}  // namespace sigmacast::host_engine
