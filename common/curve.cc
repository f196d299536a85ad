#include "common/curve.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "common/descriptor.h"

namespace sigmacast {
namespace {

constexpr std::size_t kKeyChars = 40;
constexpr std::size_t kKeyFileBytesMax = 4'096;
// A hash and a space: no key begins so, since Z85 has the one and not the other.
constexpr std::string_view kComment = "# ";
constexpr std::string_view kSecretMark = "# sigmacast secret key";
constexpr std::string_view kPublicMark = "# sigmacast public key";

using Z85 = std::array<char, kKeyChars + 1>;

Error invalid(std::string message) {
    return {Errc::kInvalid, std::move(message)};
}

Error failed(const std::string& what) {
    const int cause = errno;
    return {cause == ENOENT ? Errc::kNotFound : Errc::kUnavailable,
            what + ": " + std::strerror(cause)};
}

/// Makes a file that is not there yet; removes it again where it cannot be written.
Result<> write_new(const std::string& path, const std::string& text, mode_t mode) {
    const Descriptor file(
        ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode));
    if (!file.valid() && errno == EEXIST) {
        return Error{Errc::kConflict, path +
                                          " is there already, and no key is overwritten: name "
                                          "another file, or move that one away"};
    }
    if (!file.valid()) {
        return failed("cannot create " + path);
    }
    const ssize_t written = ::write(file.get(), text.data(), text.size());
    if (written != static_cast<ssize_t>(text.size()) || ::fsync(file.get()) != 0) {
        const Error error = failed("cannot write " + path);
        ::unlink(path.c_str());
        return error;
    }
    return {};
}

/// The lines of a key file: what the comments say it is, and its one other line.
struct KeyFile {
    bool secret = false;
    bool is_public = false;
    std::string key;
};

Result<KeyFile> parse(std::string_view text, const std::string& path) {
    KeyFile file;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        while (!line.empty() && (line.back() == ' ' || line.back() == '\r')) {
            line.remove_suffix(1);
        }
        if (line.starts_with(kComment)) {
            file.secret = file.secret || line.starts_with(kSecretMark);
            file.is_public = file.is_public || line.starts_with(kPublicMark);
        } else if (!line.empty()) {
            if (!file.key.empty() || !is_key(line)) {
                return invalid(path +
                               " holds no key: one line of 40 characters in Z85 beside the "
                               "comments; sigmacast keygen makes such files");
            }
            file.key = line;
        }
    }
    return file;
}

Result<std::string> read_private_file(const std::string& path) {
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    struct stat status{};
    if (!file.valid() && is_key(path)) {  // Perhaps a secret one: it goes into no log.
        return invalid("holds a key: put that into a file, and name the file here");
    }
    if (!file.valid() || ::fstat(file.get(), &status) != 0) {
        return failed("cannot read " + path);
    }
    if (!S_ISREG(status.st_mode)) {
        return invalid(path + " is not a file");
    }
    std::array<char, kKeyFileBytesMax + 1> text{};
    const ssize_t count = ::read(file.get(), text.data(), text.size());
    if (count < 0) {
        return failed("cannot read " + path);
    }
    if (static_cast<std::size_t>(count) > kKeyFileBytesMax) {
        return invalid(path + " is longer than 4 KiB: that is no key");
    }
    const std::string_view read(text.data(), static_cast<std::size_t>(count));
    // A public key is told to be one first: it may well be for all to read.
    if ((status.st_mode & 077u) != 0 && read.find(kPublicMark) == std::string_view::npos) {
        return invalid(path + " may be used by others than its owner: chmod 600 " + path +
                       "; if anyone could have read it, make a new key");
    }
    return std::string(read);
}

bus::CurveClient client_of(const CurveClientSettings& row) {
    bus::CurveClient client{.name = row.name, .public_keys = row.public_keys};
    for (const std::string& may : row.may) {
        client.rights |= may == "publish" ? bus::kPublish : bus::kRead;
    }
    return client;
}

Result<bus::Curve> read_own(const std::string& setting, const std::string& path) {
    const Result<KeyPair> own = read_key_pair(path);
    if (!own) {
        return own.error().within(setting);
    }
    return bus::Curve{.public_key = own->public_key, .secret_key = own->secret_key};
}

Result<bus::Curve> read_broker(const CurveSettings& settings) {
    if (settings.broker_key_file.empty()) {
        return invalid(
            "curve.broker_key_file: is missing: with [curve] the broker needs its own secret key "
            "(sigmacast keygen)");
    }
    Result<bus::Curve> curve = read_own("curve.broker_key_file", settings.broker_key_file);
    if (!curve) {
        return curve;
    }
    if (!settings.broker_public_key.empty() && settings.broker_public_key != curve->public_key) {
        return invalid("curve.broker_public_key: is not the one of " + settings.broker_key_file +
                       ", which is " + curve->public_key);
    }
    for (const CurveClientSettings& row : settings.clients) {
        for (const std::string& key : row.public_keys) {
            if (key == curve->secret_key) {
                return invalid("curve.client.public_keys: that of " + row.name +
                               " is the broker's secret key: make a new one (sigmacast keygen)");
            }
            if (key == curve->public_key) {
                return invalid("curve.client.public_keys: that of " + row.name +
                               " is the broker's own: each program needs a key of its own "
                               "(sigmacast keygen)");
            }
        }
        curve->clients.push_back(client_of(row));
    }
    return curve;
}

Result<bus::Curve> read_client(const CurveSettings& settings, const std::string& setting,
                               const std::string& path) {
    if (path.empty()) {
        return invalid(setting +
                       ": is missing: with [curve] each program that connects to the broker needs "
                       "a secret key of its own (sigmacast keygen)");
    }
    if (settings.broker_public_key.empty()) {
        return invalid(
            "curve.broker_public_key: is missing: it is what sigmacast keygen printed for the "
            "broker, and stands in the .pub file beside the broker's secret key");
    }
    Result<bus::Curve> curve = read_own(setting, path);
    if (curve && settings.broker_public_key == curve->secret_key) {
        return invalid("curve.broker_public_key: is the secret key of " + path +
                       ": make a new one (sigmacast keygen), and put the broker's public key here");
    }
    if (curve && settings.broker_public_key == curve->public_key) {
        return invalid("curve.broker_public_key: is this program's own (" + path +
                       "): put the broker's here");
    }
    if (curve) {
        curve->broker_key = settings.broker_public_key;
    }
    return curve;
}

}  // namespace

bool is_key(std::string_view text) {
    std::array<std::uint8_t, 32> bytes{};
    return text.size() == kKeyChars && text.find('\0') == std::string_view::npos &&
           zmq_z85_decode(bytes.data(), std::string(text).c_str()) != nullptr;
}

Result<std::string> public_key_of(const std::string& secret_key) {
    Z85 key{};
    if (!is_key(secret_key) || zmq_curve_public(key.data(), secret_key.c_str()) != 0) {
        return invalid("not a key of 40 characters in Z85");
    }
    return std::string(key.data());
}

Result<KeyPair> write_key_pair(const std::string& path) {
    Z85 public_key{};
    Z85 secret_key{};
    if (zmq_curve_keypair(public_key.data(), secret_key.data()) != 0) {
        return Error{Errc::kUnsupported, "this machine's libzmq was built without CURVE"};
    }
    const KeyPair pair{public_key.data(), secret_key.data()};
    const std::string public_path = path + ".pub";
    if (const auto made =
            write_new(path,
                      std::string(kSecretMark) + ": whoever has it can speak for its owner\n" +
                          pair.secret_key + "\n",
                      0600);
        !made) {
        return made.error();
    }
    if (const auto made = write_new(
            public_path,
            std::string(kPublicMark) + ": tell it to the others\n" + pair.public_key + "\n", 0644);
        !made) {
        ::unlink(path.c_str());
        return made.error();
    }
    return pair;
}

Result<KeyPair> read_key_pair(const std::string& path) {
    const Result<std::string> text = read_private_file(path);
    if (!text) {
        return text.error();
    }
    const Result<KeyFile> file = parse(*text, path);
    if (!file) {
        return file.error();
    }
    if (file->is_public) {
        return invalid(path +
                       " holds a public key, and the secret one is wanted: the file without "
                       ".pub");
    }
    if (!file->secret || file->key.empty()) {
        return invalid(path + " holds no secret key: '" + std::string(kSecretMark) +
                       "' and a key, as sigmacast keygen makes it");
    }
    Result<std::string> public_key = public_key_of(file->key);
    if (!public_key) {
        return public_key.error().within(path);
    }
    return KeyPair{std::move(*public_key), file->key};
}

Result<bus::Curve> read_curve(const Settings& settings, CurveRole role) {
    const CurveSettings& curve = settings.curve;
    if (!curve.used()) {
        return bus::Curve{};
    }
    switch (role) {
        case CurveRole::kBroker:
            return read_broker(curve);
        case CurveRole::kProducer:
            return read_client(curve, "curve.producer_key_file", curve.producer_key_file);
        case CurveRole::kEdge:
            return read_client(curve, "curve.edge_key_file", curve.edge_key_file);
        case CurveRole::kPublish:
            return read_client(curve, "curve.publish_key_file", curve.publish_key_file);
    }
    return bus::Curve{};
}

}  // namespace sigmacast
