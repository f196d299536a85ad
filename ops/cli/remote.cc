#include "ops/cli/remote.h"

#include <memory>
#include <optional>
#include <utility>

#include "common/loop.h"
#include "ops/cli/output.h"

namespace sigmacast::cli {
namespace {

constexpr std::size_t kBodyBytesMax = 64u << 20;  // An edge's whole state.

/// "http://h:1: connection refused" as the other side of the sentence, whatever the client put
/// before it.
Error explain(const Error& error, const std::string& base) {
    std::string why = error.message;
    if (const auto at = why.find(base); at == 0) {
        why = why.substr(base.size());
        why.erase(0, why.find_first_not_of(": /"));
    }
    const bool distrusted = why.find("certificate") != std::string::npos;
    return {error.code, "cannot reach " + base + ": " + why +
                            (distrusted ? std::string(kTrustHint)
                                        : std::string(". Is it running? ") + kWhoTells)};
}

}  // namespace

Result<std::shared_ptr<tls::Client>> make_tls(bool wanted, const tls::Trust& trust) {
    if (!wanted) {
        return std::shared_ptr<tls::Client>();
    }
    if (trust.insecure) {
        remark("the server's certificate is not looked at (--insecure)");
    }
    return tls::Client::make(trust);
}

std::vector<Result<http::Response>> get_all(const std::vector<Question>& questions) {
    Loop loop;
    std::vector<std::unique_ptr<http::Client>> clients;
    std::vector<std::optional<Result<http::Response>>> answers(questions.size());
    std::size_t open = questions.size();
    const Mono deadline = system_now().mono + kRequestMax;
    for (std::size_t i = 0; i < questions.size(); ++i) {
        http::ClientOptions options;
        options.body_bytes_max = kBodyBytesMax;
        options.tls = questions[i].tls;
        if (!questions[i].token.empty()) {
            options.headers.emplace_back("Authorization", "Bearer " + questions[i].token);
        }
        clients.push_back(std::make_unique<http::Client>(loop, questions[i].base, options));
        clients.back()->request("GET", questions[i].target, {}, deadline,
                                [&, i](Result<http::Response> answer) {
                                    answers[i] = std::move(answer);
                                    if (--open == 0) {
                                        loop.stop();
                                    }
                                });
    }
    if (open > 0) {
        loop.run();
    }
    std::vector<Result<http::Response>> done;
    for (std::size_t i = 0; i < questions.size(); ++i) {
        if (*answers[i]) {
            done.push_back(std::move(**answers[i]));
        } else {
            done.push_back(explain(answers[i]->error(), questions[i].base));
        }
    }
    return done;
}

std::string token_problem(int status, bool sent) {
    if (status == 403) {
        return "the token does not allow this";
    }
    if (status != 401) {
        return {};
    }
    return sent ? "it does not accept this token (wrong, or expired): --token-file or "
                  "SIGMACAST_TOKEN brings another"
                : "it asks for a token: --token-file or SIGMACAST_TOKEN brings one";
}

Result<http::Response> get(const std::string& base, const std::string& target,
                           const std::string& token, std::shared_ptr<tls::Client> tls) {
    return std::move(get_all({{base, target, token, std::move(tls)}}).front());
}

}  // namespace sigmacast::cli
