// Tokens, good and forged, made by OpenSSL: without the library that verifies them.
#pragma once

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include <memory>
#include <string>
#include <string_view>

#include "common/time.h"

namespace sigmacast::edge::testing {

inline const std::string kSecret = "0123456789abcdef0123456789abcdef";
inline constexpr Wall kNow{Seconds{1'800'000'000}};
inline const std::string kHs256 = R"({"alg":"HS256","typ":"JWT"})";
inline const std::string kRs256 = R"({"alg":"RS256","typ":"JWT"})";
inline const std::string kGood =
    R"({"sub":"ann","exp":1800000060,"roles":["viewer","operator"],"iss":"nas","aud":["web"]})";

inline std::string base64url(std::string_view bytes) {
    constexpr std::string_view kAlphabet =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    std::string text;
    std::uint32_t bits = 0;
    int count = 0;
    for (const char byte : bytes) {
        bits = bits << 8 | static_cast<unsigned char>(byte);
        for (count += 8; count >= 6; count -= 6) {
            text.push_back(kAlphabet[bits >> (count - 6) & 63]);
        }
    }
    if (count > 0) {
        text.push_back(kAlphabet[bits << (6 - count) & 63]);
    }
    return text;
}

inline std::string hmac(std::string_view key, std::string_view text) {
    unsigned char out[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
         reinterpret_cast<const unsigned char*>(text.data()), text.size(), out, &size);
    return {reinterpret_cast<char*>(out), size};
}

inline std::string signing_input(std::string_view header, std::string_view payload) {
    return base64url(header) + "." + base64url(payload);
}

inline std::string hs_token(std::string_view payload = kGood, std::string_view header = kHs256,
                            std::string_view key = kSecret) {
    const std::string input = signing_input(header, payload);
    return input + "." + base64url(hmac(key, input));
}

/// An RSA key made by OpenSSL, which signs without the library that verifies.
class Rsa {
 public:
    explicit Rsa(unsigned bits) : key_(EVP_RSA_gen(bits), EVP_PKEY_free) {}

    [[nodiscard]] std::string public_pem() const {
        BIO* bio = BIO_new(BIO_s_mem());
        PEM_write_bio_PUBKEY(bio, key_.get());
        char* data = nullptr;
        const long size = BIO_get_mem_data(bio, &data);
        std::string text(data, static_cast<std::size_t>(size));
        BIO_free(bio);
        return text;
    }

    [[nodiscard]] std::string token(std::string_view payload = kGood,
                                    std::string_view header = kRs256) const {
        const std::string input = signing_input(header, payload);
        EVP_MD_CTX* context = EVP_MD_CTX_new();
        EVP_DigestSignInit(context, nullptr, EVP_sha256(), nullptr, key_.get());
        std::string signature(1024, '\0');
        std::size_t size = signature.size();
        EVP_DigestSign(context, reinterpret_cast<unsigned char*>(signature.data()), &size,
                       reinterpret_cast<const unsigned char*>(input.data()), input.size());
        EVP_MD_CTX_free(context);
        return input + "." + base64url({signature.data(), size});
    }

 private:
    std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key_;
};

}  // namespace sigmacast::edge::testing
