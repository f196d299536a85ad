#include "edge/token.h"

#include <cjose/cjose.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <utility>

#include "common/codec.h"

namespace sigmacast::edge {
namespace {

namespace json = boost::json;

constexpr CodecLimits kClaimsLimits{
    .bytes_max = kTokenBytesMax, .elements_max = 256, .depth_max = 8};
constexpr int kRsaBitsMin = 2'048;
constexpr double kSecondsMax = 253'402'300'799;  // The end of the year 9999.

struct FreeJwk {
    void operator()(cjose_jwk_t* key) const { cjose_jwk_release(key); }
};
struct FreeJws {
    void operator()(cjose_jws_t* jws) const { cjose_jws_release(jws); }
};
struct FreeBio {
    void operator()(BIO* bio) const { BIO_free(bio); }
};
struct FreePkey {
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
struct FreeNumber {
    void operator()(BIGNUM* number) const { BN_free(number); }
};
using Jwk = std::unique_ptr<cjose_jwk_t, FreeJwk>;

Error invalid(std::string message) {
    return {Errc::kInvalid, std::move(message)};
}

std::string parameter(EVP_PKEY* key, const char* name) {
    BIGNUM* raw = nullptr;
    if (EVP_PKEY_get_bn_param(key, name, &raw) != 1) {
        return {};
    }
    const std::unique_ptr<BIGNUM, FreeNumber> number(raw);
    std::string bytes(static_cast<std::size_t>(BN_num_bytes(raw)), '\0');
    BN_bn2bin(raw, reinterpret_cast<unsigned char*>(bytes.data()));
    return bytes;
}

Result<Jwk> rsa_key(const std::string& pem) {
    const std::unique_ptr<BIO, FreeBio> bio(
        BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
    const std::unique_ptr<EVP_PKEY, FreePkey> key(
        PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr));
    if (!key || EVP_PKEY_get_base_id(key.get()) != EVP_PKEY_RSA) {
        return invalid("the public key is not an RSA key in PEM (-----BEGIN PUBLIC KEY-----)");
    }
    if (EVP_PKEY_get_bits(key.get()) < kRsaBitsMin) {
        return invalid("the public key has fewer than " + std::to_string(kRsaBitsMin) + " bits");
    }
    std::string n = parameter(key.get(), OSSL_PKEY_PARAM_RSA_N);
    std::string e = parameter(key.get(), OSSL_PKEY_PARAM_RSA_E);
    cjose_jwk_rsa_keyspec spec{};
    spec.n = reinterpret_cast<std::uint8_t*>(n.data());
    spec.nlen = n.size();
    spec.e = reinterpret_cast<std::uint8_t*>(e.data());
    spec.elen = e.size();
    Jwk made(cjose_jwk_create_RSA_spec(&spec, nullptr));
    if (!made) {
        return invalid("the public key cannot be used");
    }
    return made;
}

Result<Jwk> secret_key(const std::string& secret) {
    if (secret.size() < kSecretBytesMin) {
        return invalid("the secret is shorter than " + std::to_string(kSecretBytesMin) +
                       " bytes, so that it could be guessed: `openssl rand -hex 32` makes one");
    }
    Jwk made(cjose_jwk_create_oct_spec(reinterpret_cast<const std::uint8_t*>(secret.data()),
                                       secret.size(), nullptr));
    if (!made) {
        return invalid("the secret cannot be used");
    }
    return made;
}

/// The header says what our configuration says, and asks for nothing that is not understood.
bool header_is_plain(cjose_jws_t* jws, std::string_view token, const std::string& algorithm) {
    const char* alg = cjose_header_get(cjose_jws_get_protected(jws), CJOSE_HDR_ALG, nullptr);
    if (alg == nullptr || algorithm != alg) {
        return false;
    }
    // The library does not tell of a `crit` that is no list (RFC 7515 4.1.11).
    std::uint8_t* bytes = nullptr;
    std::size_t size = 0;
    if (!cjose_base64url_decode(token.data(), token.find('.'), &bytes, &size, nullptr)) {
        return false;
    }
    const auto header = parse_json({reinterpret_cast<const char*>(bytes), size}, kClaimsLimits);
    std::free(bytes);
    return header && header->is_object() && !header->get_object().contains("crit");
}

std::optional<Wall> time_claim(const json::object& claims, std::string_view name, bool& wrong) {
    const json::value* value = claims.if_contains(name);
    if (value == nullptr) {
        return std::nullopt;
    }
    const double seconds = value->is_number() ? value->to_number<double>() : -1;
    if (!(seconds >= 0 && seconds <= kSecondsMax)) {
        wrong = true;
        return std::nullopt;
    }
    return Wall{Millis{static_cast<Millis::rep>(std::floor(seconds * 1000))}};
}

bool is_text(const json::value* value, std::string_view wanted) {
    return value != nullptr && value->is_string() && value->get_string() == wanted;
}

/// `aud` is one text or a list of them.
bool names_audience(const json::object& claims, std::string_view wanted) {
    const json::value* value = claims.if_contains("aud");
    if (value != nullptr && value->is_array()) {
        return std::any_of(value->get_array().begin(), value->get_array().end(),
                           [&](const json::value& item) { return is_text(&item, wanted); });
    }
    return is_text(value, wanted);
}

std::vector<std::string> roles_of(const json::object& claims, const std::string& name) {
    std::vector<std::string> roles;
    const json::value* value = claims.if_contains(name);
    if (value != nullptr && value->is_array()) {
        for (const json::value& item : value->get_array()) {
            if (item.is_string()) {
                roles.emplace_back(item.get_string());
            }
        }
    } else if (value != nullptr && value->is_string()) {
        std::string_view text = value->get_string();
        while (!text.empty()) {
            const std::size_t end = std::min(text.find(' '), text.size());
            if (end > 0) {
                roles.emplace_back(text.substr(0, end));
            }
            text.remove_prefix(std::min(end + 1, text.size()));
        }
    }
    return roles;
}

Result<Claims> check_claims(const json::object& claims, const TokenRules& rules, Wall now) {
    bool wrong = false;
    const auto expires = time_claim(claims, "exp", wrong);
    const auto begins = time_claim(claims, "nbf", wrong);
    if (wrong) {
        return invalid("exp or nbf of the token is no time in seconds");
    }
    if (!expires) {
        return invalid("the token has no expiry (exp)");
    }
    if (begins && *begins > now + rules.leeway) {
        return invalid("the token is not valid yet (nbf)");
    }
    if (!rules.issuer.empty() && !is_text(claims.if_contains("iss"), rules.issuer)) {
        return invalid("the token is of another issuer (iss)");
    }
    if (!rules.audience.empty() && !names_audience(claims, rules.audience)) {
        return invalid("the token is for another audience (aud)");
    }
    if (*expires + rules.leeway <= now) {
        return Error{Errc::kTimeout, "the token has expired"};
    }
    Claims result;
    if (const json::value* subject = claims.if_contains("sub"); subject && subject->is_string()) {
        result.subject = subject->get_string();
    }
    result.roles = roles_of(claims, rules.roles_claim);
    result.expires = *expires + rules.leeway;
    return result;
}

}  // namespace

struct TokenVerifier::Key {
    Jwk jwk;
};

TokenVerifier::TokenVerifier(TokenRules rules, std::unique_ptr<Key> key)
    : rules_(std::move(rules)), key_(std::move(key)) {}

TokenVerifier::~TokenVerifier() = default;

Result<std::unique_ptr<TokenVerifier>> TokenVerifier::make(TokenRules rules) {
    if (rules.algorithm != "HS256" && rules.algorithm != "RS256") {
        return invalid("the algorithm must be HS256 or RS256");
    }
    Result<Jwk> jwk =
        rules.algorithm == "HS256" ? secret_key(rules.secret) : rsa_key(rules.public_key);
    if (!jwk) {
        return jwk.error();
    }
    auto key = std::make_unique<Key>(Key{std::move(*jwk)});
    return std::unique_ptr<TokenVerifier>(new TokenVerifier(std::move(rules), std::move(key)));
}

Result<Claims> TokenVerifier::verify(std::string_view token, Wall now) const {
    if (token.size() > kTokenBytesMax) {
        return invalid("the token is longer than " + std::to_string(kTokenBytesMax) + " bytes");
    }
    // The library is lenient about what is no character of base64url; RFC 7515 is not.
    const bool plain = std::all_of(token.begin(), token.end(), [](char c) {
        return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
               c == '-' || c == '_' || c == '.';
    });
    if (!plain || std::count(token.begin(), token.end(), '.') != 2) {
        return invalid("this is no token (JWT in three parts)");
    }
    const std::unique_ptr<cjose_jws_t, FreeJws> jws(
        cjose_jws_import(token.data(), token.size(), nullptr));
    if (!jws) {
        return invalid("this is no token (JWT in three parts)");
    }
    if (!header_is_plain(jws.get(), token, rules_.algorithm)) {
        return invalid("the token is not signed by " + rules_.algorithm);
    }
    if (!cjose_jws_verify(jws.get(), key_->jwk.get(), nullptr)) {
        return invalid("the signature of the token is wrong");
    }
    std::uint8_t* payload = nullptr;
    std::size_t size = 0;
    if (!cjose_jws_get_plaintext(jws.get(), &payload, &size, nullptr)) {
        return invalid("the token has no claims");
    }
    const auto claims = parse_json({reinterpret_cast<const char*>(payload), size}, kClaimsLimits);
    if (!claims || !claims->is_object()) {
        return invalid("the claims of the token are no JSON object");
    }
    return check_claims(claims->get_object(), rules_, now);
}

}  // namespace sigmacast::edge
