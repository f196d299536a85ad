// Tokens, and where a request may bring one: nothing that we did not sign lets anybody in.
//
// Input: a byte of options, then a token as it comes, or the claims of one that is signed here with
// the right key; or the headers of a request, a line each.
#include "edge/token.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>

#include "edge/access.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/token_fixture.h"

namespace sigmacast::edge {
namespace {

using fuzz::require;
using testing::kNow;
using testing::kSecret;

/// Other letters than the fixture's: this one has to pass for a real secret.
const std::string kRealSecret = "b3f1c07e52d84a96afe01c7d9b2866e4";

const TokenVerifier& verifier() {
    static const auto made =
        TokenVerifier::make({.secret = kSecret, .issuer = "nas", .audience = "web"}).value();
    return *made;
}

/// Without the library that verifies: the last part is the MAC of what is before it.
bool is_signed(std::string_view token, std::string_view secret) {
    const std::size_t dot = token.rfind('.');
    return dot != std::string_view::npos &&
           testing::base64url(testing::hmac(secret, token.substr(0, dot))) == token.substr(dot + 1);
}

void check_verdict(std::string_view token) {
    const auto claims = verifier().verify(token, kNow);
    if (claims) {
        require(is_signed(token, kSecret), "only what was signed is believed", token);
        require(claims->expires > kNow, "what is believed has not expired");
        return;
    }
    const std::string& why = claims.error().message;
    require(!why.empty(), "a refusal says why");
    for (const std::string& part : fuzz::split(token, ".")) {
        const bool is_word = part.size() < 16 || part.find(' ') != std::string::npos;
        require(is_word || why.find(part) == std::string::npos, "no error holds a part of a token",
                why);
    }
}

const Access& access() {
    static const auto made = [] {
        AuthSettings settings;
        settings.required = true;
        settings.secret = kRealSecret;
        settings.cookie = "sid";
        settings.query_token = true;
        settings.roles = {{"viewer", {"agent.*"}}};
        return Access::make(settings).value();
    }();
    return *made;
}

/// "name: value" lines; the first line is the query.
void check_request(std::string_view text) {
    http::Request request;
    request.method = "GET";
    request.path = "/ws";
    const auto lines = fuzz::split(text, "\n");
    request.query = lines[0];
    for (std::size_t i = 1; i < lines.size(); ++i) {
        const std::size_t colon = std::min(lines[i].find(':'), lines[i].size());
        request.headers.emplace_back(lines[i].substr(0, colon),
                                     lines[i].substr(std::min(colon + 1, lines[i].size())));
    }
    const auto grant = access().admit(request, kNow.time_since_epoch() > Millis{0} ? kNow : Wall{});
    require(!grant || !*grant, "nobody is let in who has no token of ours", text);
}

}  // namespace
}  // namespace sigmacast::edge

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace sigmacast;
    using namespace sigmacast::edge;
    fuzz::Input input(data, size);
    const std::uint8_t way = input.byte();
    const std::string_view rest = input.rest();
    switch (way % 4) {
        case 0:
            check_verdict(rest);
            break;
        case 1:
            check_verdict(testing::hs_token(rest));
            break;
        case 2:
            check_verdict(testing::hs_token(testing::kGood, rest));
            break;
        default:
            check_request(rest);
    }
    return 0;
}
