// JSON-RPC 2.0, as the engine speaks it: the text of a request, and what a reply means. Pure.
//
// A reply is a value, `unsupported` (-32601: no failure), `not found` (-32603 whose text says so;
// the caller decides what that means for it), or a failure. A failure is of the *transport* where
// the engine was not reached or did not answer in time, and the *poll's own* where it answered with
// an error or something unusable; producer/README.md has the table.
#pragma once

#include <boost/json/value.hpp>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/http.h"
#include "common/result.h"

namespace sigmacast::producer {

/// `params` is JSON text; empty: the member is left out.
std::string rpc_request(std::uint64_t id, std::string_view method, std::string_view params);

enum class Verdict : std::uint8_t {
    kValue,
    kUnsupported,
    kNotFound,   // A kind of own failure: the engine does not know the thing that was asked for.
    kOwn,        // The engine answered, unusably.
    kTransport,  // No answer of the engine's.
};

struct Outcome {
    Verdict verdict = Verdict::kTransport;
    boost::json::value value;  // kValue: the result, never null.
    bool timeout = false;      // kTransport: it did not answer in time.
    std::string text;          // For a person, where it is not a value.

    [[nodiscard]] bool ok() const { return verdict == Verdict::kValue; }
};

/// Judges the reply to request `id`.
Outcome judge(const Result<http::Response>& reply, std::uint64_t id);

}  // namespace sigmacast::producer
