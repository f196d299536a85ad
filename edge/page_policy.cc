#include <openssl/evp.h>

#include <array>

#include "edge/page.h"

namespace sigmacast::edge {
namespace {

std::string sha256_base64(std::string_view text) {
    std::array<unsigned char, 32> digest{};
    unsigned size = 0;
    EVP_Digest(text.data(), text.size(), digest.data(), &size, EVP_sha256(), nullptr);
    std::array<unsigned char, 64> base64{};
    const int length = EVP_EncodeBlock(base64.data(), digest.data(), static_cast<int>(size));
    return {reinterpret_cast<const char*>(base64.data()), static_cast<std::size_t>(length)};
}

/// ` 'sha256-..'` for each inline element of that name.
std::string hashes(std::string_view html, std::string_view element) {
    std::string out;
    const std::string open = "<" + std::string(element);
    const std::string close = "</" + std::string(element) + ">";
    std::size_t at = 0;
    while ((at = html.find(open, at)) != std::string_view::npos) {
        const std::size_t begin = html.find('>', at);
        const std::size_t end = html.find(close, at);
        if (begin == std::string_view::npos || end == std::string_view::npos || end < begin) {
            break;
        }
        out += " 'sha256-" + sha256_base64(html.substr(begin + 1, end - begin - 1)) + "'";
        at = end;
    }
    return out.empty() ? " 'none'" : out;
}

}  // namespace

std::string page_policy(std::string_view html) {
    return "default-src 'none'; script-src" + hashes(html, "script") + "; style-src" +
           hashes(html, "style") +
           "; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
           "frame-ancestors 'none'";
}

}  // namespace sigmacast::edge
