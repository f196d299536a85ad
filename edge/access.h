// Who may connect to an edge, and see what: finds the token of a request, has it verified, and
// turns its roles into a Grant.
//
//     auto access = Access::make(settings.auth);                     // once; the key is read here
//     auto admitted = (*access)->admit(request, now.wall);           // error: a bad token
//     if (!*admitted) { .. }                                         // none: it has to send one
//
// Where no token is required everyone gets everything, and tokens are not looked at. Pure but for
// make(), which reads the key's file; thread safe (constant). It keeps no token, and no error
// contains a part of one.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include "common/http.h"
#include "common/result.h"
#include "common/settings.h"
#include "edge/grant.h"
#include "edge/token.h"

namespace sigmacast::edge {

/// A subprotocol that is offered to bring a token, and never chosen.
inline constexpr std::string_view kTokenProtocol = "sigmacast.token.";

/// What clocks may differ by. A live session whose token has expired is closed within 5 s of it,
/// so that this, the Hub's check and the closing itself have to fit.
inline constexpr Millis kTokenLeeway{2'000};

class Access {
 public:
    /// Errors: kInvalid, naming the setting and never its value.
    static Result<std::unique_ptr<Access>> make(const AuthSettings& settings);

    [[nodiscard]] bool required() const { return verifier_ != nullptr; }

    /// By the first of these that is there: Authorization: Bearer, an offered subprotocol
    /// kTokenProtocol + token, the cookie, ?token=. nullopt: none of them. Errors: as verify().
    [[nodiscard]] Result<std::optional<Grant>> admit(const http::Request& request, Wall now) const;

    /// Errors: kInvalid; kTimeout where it has expired.
    [[nodiscard]] Result<Grant> verify(std::string_view token, Wall now) const;

 private:
    Access(const AuthSettings& settings, std::unique_ptr<TokenVerifier> verifier);
    [[nodiscard]] std::optional<std::string_view> find_token(const http::Request& request) const;

    std::unique_ptr<TokenVerifier> verifier_;  // Null: no token is required.
    std::string cookie_;
    bool query_token_;
    std::vector<RoleSettings> roles_;
};

}  // namespace sigmacast::edge
