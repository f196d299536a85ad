#include "edge/access.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <utility>

namespace sigmacast::edge {
namespace {

constexpr std::size_t kKeyFileBytesMax = 64u << 10;
constexpr std::size_t kSecretLettersMin = 8;  // Different ones; fewer can be guessed.

/// What stands in examples and default configurations.
constexpr std::array<std::string_view, 9> kPlaceholders = {
    "changeme",    "changethis",  "changeinproduction", "yoursecret", "defaultsecret",
    "your256bits", "supersecret", "replaceme",          "insecuredev"};

std::string lower(std::string_view text) {
    std::string out(text);
    std::transform(out.begin(), out.end(), out.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return out;
}

bool is_placeholder(std::string_view secret) {
    std::string letters = lower(secret);
    std::erase_if(letters, [](unsigned char c) { return std::isalnum(c) == 0; });
    return std::set<char>(secret.begin(), secret.end()).size() < kSecretLettersMin ||
           std::any_of(
               kPlaceholders.begin(), kPlaceholders.end(),
               [&](std::string_view known) { return letters.find(known) != std::string::npos; });
}

Error invalid(std::string message) {
    return {Errc::kInvalid, std::move(message)};
}

Result<> check_secret(const AuthSettings& auth) {
    if (auth.secret.empty()) {
        return invalid(
            "auth.secret: auth.required = true needs it, for HS256: set SIGMAVAULT_JWT_SECRET "
            "(`openssl rand -hex 32` makes one)");
    }
    if (auth.secret.size() >= kSecretBytesMin && is_placeholder(auth.secret)) {
        return invalid(
            "auth.secret: this one is a placeholder that anyone can guess: `openssl rand -hex 32` "
            "makes a good one");
    }
    return {};
}

Result<std::string> read_key(const std::string& path) {
    if (path.empty()) {
        return invalid(
            "auth.public_key_file: auth.required = true needs it, for RS256: the file with the "
            "issuer's public key (PEM)");
    }
    std::ifstream file(path, std::ios::binary);
    std::string text(kKeyFileBytesMax + 1, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    if (!file.eof() || file.gcount() == 0) {
        return invalid("auth.public_key_file: " + path + " cannot be read, or is no key" +
                       (errno != 0 ? ": " + std::string(std::strerror(errno)) : ""));
    }
    text.resize(static_cast<std::size_t>(file.gcount()));
    return text;
}

std::string_view trimmed(std::string_view text) {
    const std::size_t begin = text.find_first_not_of(" \t");
    return begin == std::string_view::npos
               ? std::string_view{}
               : text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

/// The first part of a list for which `wanted` gives something.
template <class Wanted>
std::optional<std::string_view> find_part(std::string_view list, char separator,
                                          const Wanted& wanted) {
    while (!list.empty()) {
        const std::size_t end = std::min(list.find(separator), list.size());
        if (const std::optional<std::string_view> found = wanted(trimmed(list.substr(0, end)))) {
            return found;
        }
        list.remove_prefix(std::min(end + 1, list.size()));
    }
    return std::nullopt;
}

/// What follows `prefix`, where the part begins with it.
auto after(std::string prefix) {
    return [prefix = std::move(prefix)](std::string_view part) {
        return part.starts_with(prefix) ? std::optional(part.substr(prefix.size())) : std::nullopt;
    };
}

/// "Bearer x": another scheme (a proxy's own) is no token.
std::optional<std::string_view> bearer(std::string_view value) {
    constexpr std::string_view kScheme = "bearer";
    if (value.size() < kScheme.size() || lower(value.substr(0, kScheme.size())) != kScheme ||
        (value.size() > kScheme.size() && value[kScheme.size()] != ' ')) {
        return std::nullopt;
    }
    return trimmed(value.substr(kScheme.size()));
}

}  // namespace

Access::Access(const AuthSettings& settings, std::unique_ptr<TokenVerifier> verifier)
    : verifier_(std::move(verifier)),
      cookie_(settings.cookie),
      query_token_(settings.query_token),
      roles_(settings.roles) {}

Result<std::unique_ptr<Access>> Access::make(const AuthSettings& settings) {
    std::unique_ptr<TokenVerifier> verifier;
    if (settings.required) {
        TokenRules rules{.algorithm = settings.algorithm,
                         .issuer = settings.issuer,
                         .audience = settings.audience,
                         .roles_claim = settings.roles_claim,
                         .leeway = kTokenLeeway};
        if (settings.algorithm == "RS256") {
            Result<std::string> key = read_key(settings.public_key_file);
            if (!key) {
                return key.error();
            }
            rules.public_key = std::move(*key);
        } else {
            if (const auto good = check_secret(settings); !good) {
                return good.error();
            }
            rules.secret = settings.secret;
        }
        auto made = TokenVerifier::make(std::move(rules));
        if (!made) {
            return made.error().within(settings.algorithm == "RS256" ? "auth.public_key_file"
                                                                     : "auth.secret");
        }
        verifier = std::move(*made);
    }
    return std::unique_ptr<Access>(new Access(settings, std::move(verifier)));
}

std::optional<std::string_view> Access::find_token(const http::Request& request) const {
    const auto in_headers = [&](std::string_view name,
                                auto find) -> std::optional<std::string_view> {
        for (const auto& [header, value] : request.headers) {
            if (header == name) {
                if (const auto found = find(value)) {
                    return found;
                }
            }
        }
        return std::nullopt;
    };
    auto found = in_headers("authorization", bearer);
    if (!found) {
        found = in_headers("sec-websocket-protocol", [](std::string_view offers) {
            return find_part(offers, ',', after(std::string(kTokenProtocol)));
        });
    }
    if (!found && !cookie_.empty()) {
        found = in_headers("cookie", [&](std::string_view cookies) {
            return find_part(cookies, ';', after(cookie_ + "="));
        });
    }
    if (!found && query_token_) {
        found = find_part(request.query, '&', after("token="));
    }
    return found;
}

Result<std::optional<Grant>> Access::admit(const http::Request& request, Wall now) const {
    if (!required()) {
        return std::optional(Grant{});
    }
    const auto token = find_token(request);
    if (!token) {
        return std::optional<Grant>{};
    }
    Result<Grant> grant = verify(*token, now);
    if (!grant) {
        return grant.error();
    }
    return std::optional(std::move(*grant));
}

Result<Grant> Access::verify(std::string_view token, Wall now) const {
    if (!required()) {
        return Grant{};
    }
    const Result<Claims> claims = verifier_->verify(token, now);
    if (!claims) {
        return claims.error();
    }
    Grant grant{.subject = claims->subject,
                .everything = roles_.empty(),
                .topics = {},
                .expires = claims->expires};
    for (const RoleSettings& role : roles_) {
        if (std::find(claims->roles.begin(), claims->roles.end(), role.name) !=
            claims->roles.end()) {
            grant.topics.insert(grant.topics.end(), role.topics.begin(), role.topics.end());
        }
    }
    if (std::find(grant.topics.begin(), grant.topics.end(), "*") != grant.topics.end()) {
        grant.everything = true;
    }
    if (grant.everything) {
        grant.topics.clear();
    }
    return grant;
}

}  // namespace sigmacast::edge
