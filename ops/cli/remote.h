// Asking the programs that run: one HTTP request after the other, and what their answers say. Runs
// on: the main thread, blocking.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/http.h"
#include "common/result.h"
#include "common/time.h"
#include "common/tls.h"
#include "ops/cli/format.h"

namespace sigmacast::cli {

/// What to ask where nobody answers; it cannot be known here with which folder that was started.
inline constexpr const char* kWhoTells =
    "ops/run --status tells (with the --data DIR that it was started with, if any).";

/// For an `Endpoint` with TLS; null without. With --insecure it says on standard error what that
/// means. Errors: kInvalid, naming the file.
Result<std::shared_ptr<tls::Client>> make_tls(bool wanted, const tls::Trust& trust);

/// What helps where a certificate is not believed.
inline constexpr std::string_view kTrustHint =
    ". --ca FILE names its authority, --pin FILE the certificate itself.";

/// Each request ends after this time at the latest.
inline constexpr Millis kRequestMax{3'000};

/// Errors: kUnavailable, kTimeout, with a sentence that says what to do.
Result<http::Response> get(const std::string& base, const std::string& target,
                           const std::string& token = {},
                           std::shared_ptr<tls::Client> tls = nullptr);
/// The same for several, all at once; answers in the order of the questions.
struct Question {
    std::string base;
    std::string target;
    std::string token = {};                      // Sent as Authorization: Bearer; empty: none.
    std::shared_ptr<tls::Client> tls = nullptr;  // For a base with https.
};
std::vector<Result<http::Response>> get_all(const std::vector<Question>& questions);

/// What an edge's 401 or 403 means, and what to do; empty for other statuses.
std::string token_problem(int status, bool sent);

/// One value, or one poll, as /api/v1/state tells it.
struct StateRow {
    std::string topic;
    std::string key;
    std::string origin;
    AgeView age;
    std::string summary;
};

/// The values of an answer of /api/v1/state, by topic, origin and key: every object in it that has
/// a `type` and a `quality`, wherever it stands. Errors: kInvalid.
Result<std::vector<StateRow>> state_rows(std::string_view body);

}  // namespace sigmacast::cli
