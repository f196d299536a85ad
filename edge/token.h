// Whether a signed token (JWT, RFC 7519) is to be believed, and what it says of its bearer.
//
//     auto verifier = TokenVerifier::make(rules);           // once; the key is parsed here
//     Result<Claims> claims = (*verifier)->verify(token, now.wall);
//
// The configuration pins the algorithm: what the token says of itself is never followed, only
// compared. A token without an expiry is refused, since nothing could end its session.
//
// Pure but for the library's arithmetic; any one thread at a time. Fetches no keys, keeps no
// tokens, and no error contains any part of one.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/time.h"

namespace sigmacast::edge {

struct TokenRules {
    std::string algorithm = "HS256";  // Or RS256.
    std::string secret = {};          // HS256: at least kSecretBytesMin.
    std::string public_key = {};      // RS256: PEM, an RSA key of at least 2,048 bits.
    std::string issuer = {};          // Empty: any.
    std::string audience = {};        // Empty: any.
    std::string roles_claim = "roles";
    Millis leeway{5'000};  // What clocks may differ by.
};

inline constexpr std::size_t kSecretBytesMin = 32;
inline constexpr std::size_t kTokenBytesMax = 8'192;

struct Claims {
    std::string subject;             // Empty where the token names nobody.
    std::vector<std::string> roles;  // From a list, or from one text with spaces between.
    Wall expires;                    // The leeway included.
};

class TokenVerifier {
 public:
    /// Errors: kInvalid, naming the setting.
    static Result<std::unique_ptr<TokenVerifier>> make(TokenRules rules);
    ~TokenVerifier();
    TokenVerifier(const TokenVerifier&) = delete;
    TokenVerifier& operator=(const TokenVerifier&) = delete;

    /// Errors: kInvalid (a sentence for a person); kTimeout where all is right but it has expired.
    [[nodiscard]] Result<Claims> verify(std::string_view token, Wall now) const;

 private:
    struct Key;
    TokenVerifier(TokenRules rules, std::unique_ptr<Key> key);

    TokenRules rules_;
    std::unique_ptr<Key> key_;
};

}  // namespace sigmacast::edge
