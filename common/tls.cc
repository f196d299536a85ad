#include "common/tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <boost/asio/error.hpp>
#include <boost/asio/ip/address.hpp>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>
#include <mutex>
#include <utility>
#include <vector>

namespace sigmacast::tls {
namespace {

namespace asio = boost::asio;
using ErrorCode = boost::system::error_code;

constexpr std::size_t kRecord = 16u << 10;         // RFC 8446 5.1: the most that one record holds.
constexpr std::size_t kFileBytesMax = 1u << 20;    // Of a PEM file.
constexpr unsigned char kAlpn[] = "\x08http/1.1";  // RFC 7301 3.1: names, each after its length.
constexpr std::size_t kAlpnSize = sizeof kAlpn - 1;

// Mozilla's "intermediate" for TLS 1.2 (version 5.7), without those that need DH parameters. All of
// TLS 1.3's are good.
constexpr char kCiphers[] =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

template <auto Free>
struct Freed {
    template <class T>
    void operator()(T* object) const {
        Free(object);
    }
};
using Context = std::unique_ptr<SSL_CTX, Freed<SSL_CTX_free>>;
using Ssl = std::unique_ptr<SSL, Freed<SSL_free>>;
using Bio = std::unique_ptr<BIO, Freed<BIO_free>>;
using Certificate = std::unique_ptr<X509, Freed<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;

Error invalid(std::string message) {
    return {Errc::kInvalid, std::move(message)};
}

std::string last_problem() {
    const unsigned long code = ERR_peek_last_error();
    const char* text = code == 0 ? nullptr : ERR_reason_error_string(code);
    return text == nullptr ? "unknown" : text;
}

// ----------------------------------------------------------------------------------------------------------
// socket: what OpenSSL's own does, but that it never blocks and raises no SIGPIPE.

int socket_write(BIO* bio, const char* data, int size) {
    BIO_clear_retry_flags(bio);
    const auto n = ::send(static_cast<int>(reinterpret_cast<std::intptr_t>(BIO_get_data(bio))),
                          data, static_cast<std::size_t>(size), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        BIO_set_retry_write(bio);
    }
    return static_cast<int>(n);
}

int socket_read(BIO* bio, char* data, int size) {
    BIO_clear_retry_flags(bio);
    const auto n = ::recv(static_cast<int>(reinterpret_cast<std::intptr_t>(BIO_get_data(bio))),
                          data, static_cast<std::size_t>(size), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        BIO_set_retry_read(bio);
    } else if (n == 0) {
        BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
    }
    return static_cast<int>(n);
}

long socket_control(BIO* bio, int command, long, void*) {
    if (command == BIO_CTRL_EOF) {
        return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0 ? 1 : 0;
    }
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

const BIO_METHOD* socket_method() {
    static BIO_METHOD* const kMethod = [] {
        BIO_METHOD* method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket");
        BIO_meth_set_write(method, socket_write);
        BIO_meth_set_read(method, socket_read);
        BIO_meth_set_ctrl(method, socket_control);
        return method;
    }();
    return kMethod;
}

Ssl open_ssl(SSL_CTX* context, int socket) {
    Ssl ssl(SSL_new(context));
    BIO* bio = BIO_new(socket_method());
    BIO_set_data(bio, reinterpret_cast<void*>(static_cast<std::intptr_t>(socket)));
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl.get(), bio, bio);
    return ssl;
}

Context new_context(const SSL_METHOD* method) {
    Context context(SSL_CTX_new(method));
    SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
    SSL_CTX_set_cipher_list(context.get(), kCiphers);
    SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    // Partial: one record a call. Moving: what waits in an outbox grows meanwhile. Release: an idle
    // connection holds no buffers.
    SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE |
                                        SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                        SSL_MODE_RELEASE_BUFFERS);
    // Messages that carry no data (key updates) end a read too: a peer that sends nothing else
    // would hold the loop for as long as it sends.
    SSL_CTX_clear_mode(context.get(), SSL_MODE_AUTO_RETRY);
    SSL_CTX_set_read_ahead(context.get(), 1);  // One recv a record, or several, instead of two.
    return context;
}

// ------------------------------------------------------------------------------------------- files

Result<std::string> read_file(const std::string& path) {
    errno = 0;
    std::ifstream file(path, std::ios::binary);
    std::string text(kFileBytesMax + 1, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    if (!file.eof() || file.bad()) {
        return invalid(path + (file.gcount() > 0
                                   ? " is longer than 1 MiB"
                                   : " cannot be read" +
                                         (errno == 0 ? std::string()
                                                     : ": " + std::string(std::strerror(errno)))));
    }
    text.resize(static_cast<std::size_t>(file.gcount()));
    return text;
}

Bio reading(const std::string& text) {
    return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

/// The certificates in a PEM file, at least one.
Result<std::vector<Certificate>> read_certificates(const std::string& path) {
    const auto text = read_file(path);
    if (!text) {
        return text.error();
    }
    ERR_clear_error();
    const Bio bio = reading(*text);
    std::vector<Certificate> found;
    while (X509* next = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
        found.emplace_back(next);
    }
    const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    if (found.empty() || !at_end) {
        return invalid(path + (found.empty() && at_end
                                   ? " holds no certificate (PEM, -----BEGIN CERTIFICATE-----)"
                                   : " holds a certificate that is damaged: " + last_problem()));
    }
    return found;
}

/// Instead of asking at the terminal.
int refuse_passphrase(char*, int, int, void* asked) {
    *static_cast<bool*>(asked) = true;
    return -1;
}

Result<Key> read_key(const std::string& path) {
    const auto text = read_file(path);
    if (!text) {
        return text.error();
    }
    ERR_clear_error();
    bool asked = false;
    const Bio bio = reading(*text);
    Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, refuse_passphrase, &asked));
    if (!key) {
        return invalid(path + (asked ? " is locked with a passphrase, which nobody is here to "
                                       "type: `openssl pkey` writes it without one"
                                     : " holds no private key (PEM): " + last_problem()));
    }
    return key;
}

Wall to_wall(const ASN1_TIME* time) {
    std::tm parts{};
    return ASN1_TIME_to_tm(time, &parts) == 1 ? Wall(Seconds(::timegm(&parts))) : Wall{};
}

/// http/1.1, or a refusal that says so (RFC 7301 3.2), where a client has a list at all.
int choose_protocol(SSL*, const unsigned char** chosen, unsigned char* size,
                    const unsigned char* offered, unsigned offered_size, void*) {
    unsigned char* out = nullptr;
    const int found = SSL_select_next_proto(&out, size, kAlpn, kAlpnSize, offered, offered_size);
    *chosen = out;
    return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------
// Session

struct Session::Impl {
    Ssl ssl;
    std::string why = {};
    bool http = false;
    bool broken = false;

    template <class Attempt>
    Outcome attempt(Attempt attempt_once) {
        if (broken) {
            return {.error = asio::error::connection_aborted};
        }
        ERR_clear_error();
        errno = 0;
        std::size_t bytes = 0;
        const int result = attempt_once(&bytes);
        if (result > 0) {
            return {.bytes = bytes};
        }
        switch (SSL_get_error(ssl.get(), result)) {
            case SSL_ERROR_WANT_READ:
                return {.wants = Wants::kRead};
            case SSL_ERROR_WANT_WRITE:
                return {.wants = Wants::kWrite};
            case SSL_ERROR_ZERO_RETURN:
                return {.error = asio::error::eof};
            default:
                return {.error = fail(errno)};
        }
    }

    ErrorCode fail(int number) {
        broken = true;
        const int reason = ERR_GET_REASON(ERR_peek_error());
        const long verified = SSL_get_verify_result(ssl.get());
        http = reason == SSL_R_HTTP_REQUEST;
        if (verified != X509_V_OK && SSL_get_verify_mode(ssl.get()) != SSL_VERIFY_NONE) {
            why = std::string("its certificate is not believed: ") +
                  X509_verify_cert_error_string(verified);
        } else if (reason == SSL_R_UNEXPECTED_EOF_WHILE_READING || ERR_peek_error() == 0) {
            // Gone, and did not say that it goes: what came may not be all.
            why = number == 0 ? "the connection was cut" : std::strerror(number);
            return number == 0 ? ErrorCode(asio::error::connection_reset)
                               : ErrorCode(number, boost::system::system_category());
        } else if (reason == SSL_R_WRONG_VERSION_NUMBER && SSL_is_server(ssl.get()) == 0) {
            why = "it does not speak TLS";
        } else {
            why = "TLS: " + last_problem();
        }
        return boost::system::errc::make_error_code(boost::system::errc::protocol_error);
    }
};

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::~Session() = default;

Session::Outcome Session::handshake() {
    return impl_->attempt([this](std::size_t*) { return SSL_do_handshake(impl_->ssl.get()); });
}

Session::Outcome Session::read(void* into, std::size_t size) {
    if (size == 0) {
        return {};
    }
    return impl_->attempt(
        [&](std::size_t* bytes) { return SSL_read_ex(impl_->ssl.get(), into, size, bytes); });
}

Session::Outcome Session::write(const iovec* parts, std::size_t count) {
    static thread_local std::array<char, kRecord> record;
    const char* data = nullptr;
    std::size_t size = 0;
    while (count > 0 && parts->iov_len == 0) {
        ++parts;
        --count;
    }
    if (count == 0) {
        return {};
    }
    if (count == 1 || parts->iov_len >= kRecord) {
        data = static_cast<const char*>(parts->iov_base);
        size = std::min(parts->iov_len, kRecord);
    } else {  // Small frames share a record, and a system call.
        for (; count > 0 && size < kRecord; ++parts, --count) {
            const std::size_t n = std::min(parts->iov_len, kRecord - size);
            std::memcpy(record.data() + size, parts->iov_base, n);
            size += n;
        }
        data = record.data();
    }
    return impl_->attempt(
        [&](std::size_t* bytes) { return SSL_write_ex(impl_->ssl.get(), data, size, bytes); });
}

void Session::close_notify() {
    if (!impl_->broken && SSL_is_init_finished(impl_->ssl.get()) != 0) {
        ERR_clear_error();
        SSL_shutdown(impl_->ssl.get());
    }
}

const std::string& Session::why() const {
    return impl_->why;
}

bool Session::heard_http() const {
    return impl_->http;
}

// ----------------------------------------------------------------------------------------------------------
// Server

struct Server::Impl {
    Impl(std::string certificate, std::string key)
        : certificate_file(std::move(certificate)), key_file(std::move(key)) {}

    const std::string certificate_file;
    const std::string key_file;
    mutable std::mutex mutex;  // Of what follows.
    Context context = {};      // Sessions hold on to the one with which they began.
    Wall begins{};
    Wall ends{};
};

Server::Server(std::string certificate_file, std::string key_file)
    : impl_(std::make_unique<Impl>(std::move(certificate_file), std::move(key_file))) {}
Server::~Server() = default;

Result<std::shared_ptr<Server>> Server::make(std::string certificate_file, std::string key_file) {
    std::shared_ptr<Server> server(new Server(std::move(certificate_file), std::move(key_file)));
    const auto loaded = server->reload();
    server->counters.reloads = 0;
    return loaded ? Result<std::shared_ptr<Server>>(std::move(server)) : loaded.error();
}

Result<> Server::reload() {
    const auto refuse = [this](const std::string& why) {
        ++counters.reloads_failed;
        return invalid(why);
    };
    auto certificates = read_certificates(impl_->certificate_file);
    if (!certificates) {
        return refuse("tls_certificate: " + certificates.error().message);
    }
    const auto key = read_key(impl_->key_file);
    if (!key) {
        return refuse("tls_key: " + key.error().message);
    }
    X509* leaf = certificates->front().get();
    ERR_clear_error();
    if (X509_check_private_key(leaf, key->get()) != 1) {
        return refuse("tls_key: " + impl_->key_file +
                      " is not the key of the first certificate in " + impl_->certificate_file);
    }
    Context context = new_context(TLS_server_method());
    if (SSL_CTX_use_certificate(context.get(), leaf) != 1 ||
        SSL_CTX_use_PrivateKey(context.get(), key->get()) != 1) {
        return refuse("tls_certificate: " + impl_->certificate_file +
                      " cannot be used: " + last_problem());  // As a key that is too short.
    }
    for (auto issuer = certificates->begin() + 1; issuer != certificates->end(); ++issuer) {
        SSL_CTX_add1_chain_cert(context.get(), issuer->get());
    }
    SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);  // Tickets hold it all.
    SSL_CTX_set_num_tickets(context.get(), 1);
    SSL_CTX_set_alpn_select_cb(context.get(), choose_protocol, nullptr);
    const std::lock_guard lock(impl_->mutex);
    impl_->begins = to_wall(X509_get0_notBefore(leaf));
    impl_->ends = to_wall(X509_get0_notAfter(leaf));
    impl_->context = std::move(context);
    ++counters.reloads;
    return {};
}

std::unique_ptr<Session> Server::open(int socket) const {
    Ssl ssl = [&] {
        const std::lock_guard lock(impl_->mutex);
        return open_ssl(impl_->context.get(), socket);  // Which keeps its context.
    }();
    SSL_set_accept_state(ssl.get());
    return std::unique_ptr<Session>(
        new Session(std::make_unique<Session::Impl>(Session::Impl{.ssl = std::move(ssl)})));
}

Wall Server::expires() const {
    const std::lock_guard lock(impl_->mutex);
    return impl_->ends;
}

std::string Server::warning(Wall now) const {
    const std::lock_guard lock(impl_->mutex);
    const std::string certificate = "the certificate in " + impl_->certificate_file;
    if (impl_->ends <= now) {
        return certificate + " has expired at " + to_rfc3339(impl_->ends) + ": clients refuse it";
    }
    if (now < impl_->begins) {
        return certificate + " is valid from " + to_rfc3339(impl_->begins) +
               " on only: clients refuse it until then";
    }
    return {};
}

// ----------------------------------------------------------------------------------------------------------
// Client

struct Client::Impl {
    Context context;
    bool by_name = true;
};

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

Result<std::shared_ptr<Client>> Client::make(const Trust& trust) {
    Context context = new_context(TLS_client_method());
    SSL_CTX_set_verify(context.get(), trust.insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, nullptr);
    SSL_CTX_set_alpn_protos(context.get(), kAlpn, kAlpnSize);
    const bool pinned = !trust.pin_file.empty();
    if (pinned || !trust.ca_file.empty()) {
        auto found = read_certificates(pinned ? trust.pin_file : trust.ca_file);
        if (!found) {
            return found.error();
        }
        found->resize(pinned ? 1 : found->size());
        X509_STORE* store = SSL_CTX_get_cert_store(context.get());
        X509_STORE_set_flags(store, pinned ? X509_V_FLAG_PARTIAL_CHAIN : 0);
        for (const Certificate& each : *found) {
            X509_STORE_add_cert(store, each.get());
        }
    } else {
        SSL_CTX_set_default_verify_paths(context.get());
    }
    return std::shared_ptr<Client>(
        new Client(std::make_unique<Impl>(Impl{std::move(context), !pinned})));
}

std::unique_ptr<Session> Client::open(int socket, const std::string& host) const {
    Ssl ssl = open_ssl(impl_->context.get(), socket);
    SSL_set_connect_state(ssl.get());
    ErrorCode is_name;
    asio::ip::make_address(host, is_name);
    if (is_name) {
        SSL_set_tlsext_host_name(ssl.get(), host.c_str());
    }
    if (impl_->by_name && is_name) {
        SSL_set_hostflags(ssl.get(), X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        SSL_set1_host(ssl.get(), host.c_str());
    } else if (impl_->by_name) {
        X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl.get()), host.c_str());
    }
    return std::unique_ptr<Session>(
        new Session(std::make_unique<Session::Impl>(Session::Impl{.ssl = std::move(ssl)})));
}

}  // namespace sigmacast::tls
