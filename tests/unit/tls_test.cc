// Keys and certificates as files have them, and a server and a client that use them over real
// sockets. What foreign clients make of it is in tests/integration/tls_test.py.
#include "common/tls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "common/http.h"

namespace sigmacast::tls {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

Mono in(int ms) {
    return BootClock::now() + Millis(ms);
}

/// A key, and a certificate for 127.0.0.1 that it has signed itself.
class Identity {
 public:
    explicit Identity(long from_seconds = -60, long to_seconds = 3'600)
        : key_(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256")), certificate_(X509_new()) {
        X509_set_version(certificate_, 2);
        ASN1_INTEGER_set(X509_get_serialNumber(certificate_), 1);
        X509_gmtime_adj(X509_getm_notBefore(certificate_), from_seconds);
        X509_gmtime_adj(X509_getm_notAfter(certificate_), to_seconds);
        X509_set_pubkey(certificate_, key_);
        X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate_), "CN", MBSTRING_ASC,
                                   reinterpret_cast<const unsigned char*>("test"), -1, -1, 0);
        X509_set_issuer_name(certificate_, X509_get_subject_name(certificate_));
        X509_EXTENSION* names =
            X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1");
        X509_add_ext(certificate_, names, -1);
        X509_EXTENSION_free(names);
        X509_sign(certificate_, key_, EVP_sha256());
    }
    ~Identity() {
        X509_free(certificate_);
        EVP_PKEY_free(key_);
    }
    Identity(const Identity&) = delete;
    Identity& operator=(const Identity&) = delete;

    [[nodiscard]] std::string certificate() const {
        BIO* bio = BIO_new(BIO_s_mem());
        PEM_write_bio_X509(bio, certificate_);
        return text_of(bio);
    }
    [[nodiscard]] std::string key(const char* passphrase = nullptr) const {
        BIO* bio = BIO_new(BIO_s_mem());
        PEM_write_bio_PKCS8PrivateKey(bio, key_, passphrase ? EVP_aes_128_cbc() : nullptr,
                                      passphrase, passphrase ? 4 : 0, nullptr, nullptr);
        return text_of(bio);
    }

 private:
    static std::string text_of(BIO* bio) {
        char* data = nullptr;
        const long size = BIO_get_mem_data(bio, &data);
        std::string text(data, static_cast<std::size_t>(size));
        BIO_free(bio);
        return text;
    }
    EVP_PKEY* key_;
    X509* certificate_;
};

class TlsTest : public testing::Test {
 protected:
    TlsTest() {
        std::string name = (std::filesystem::temp_directory_path() / "tls_test.XXXXXX").string();
        folder_ = ::mkdtemp(name.data());
    }
    ~TlsTest() override { std::filesystem::remove_all(folder_); }

    [[nodiscard]] std::string path(const std::string& name) const { return folder_ + "/" + name; }
    std::string file(const std::string& name, const std::string& text) const {
        std::ofstream(path(name), std::ios::binary) << text;
        return path(name);
    }
    void put(const Identity& identity) const {
        file("certificate.pem", identity.certificate());
        file("key.pem", identity.key());
    }
    [[nodiscard]] auto make() const {
        return Server::make(path("certificate.pem"), path("key.pem"));
    }
    [[nodiscard]] std::string refusal() const {
        const auto made = make();
        return made ? "it was taken" : made.error().message;
    }

    std::string folder_;
    const Identity identity_;
};

TEST_F(TlsTest, APeerThatSendsNothingButKeyUpdatesHoldsNoReadForLong) {
    put(identity_);
    int sockets[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sockets), 0);
    const auto server = (*make())->open(sockets[0]);
    const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(
        SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
    const std::unique_ptr<SSL, decltype(&SSL_free)> client(SSL_new(context.get()), SSL_free);
    SSL_set_fd(client.get(), sockets[1]);
    for (int i = 0; i < 10 && SSL_connect(client.get()) != 1; ++i) {
        server->handshake();
    }
    ASSERT_EQ(server->handshake().wants, Session::Wants::kNothing);

    BIO* flood = BIO_new(BIO_s_mem());
    SSL_set0_wbio(client.get(), flood);
    for (int i = 0; i < 2'000; ++i) {
        ASSERT_EQ(SSL_key_update(client.get(), SSL_KEY_UPDATE_NOT_REQUESTED), 1);
        ASSERT_EQ(SSL_do_handshake(client.get()), 1);
    }
    ASSERT_EQ(SSL_write(client.get(), "x", 1), 1);
    char* data = nullptr;
    const long size = BIO_get_mem_data(flood, &data);
    ASSERT_EQ(::send(sockets[1], data, static_cast<std::size_t>(size), MSG_NOSIGNAL), size);
    char byte = 0;
    EXPECT_EQ(server->read(&byte, 1).wants, Session::Wants::kRead);
    int left = 0;
    ::ioctl(sockets[0], FIONREAD, &left);
    EXPECT_GT(left, 20'000) << "one read has taken them all";
    std::size_t bytes = 0;
    for (int i = 0; i < 2'001 && bytes == 0; ++i) {
        bytes = server->read(&byte, 1).bytes;
    }
    EXPECT_EQ(byte, 'x') << "what follows them is still read";
    ::close(sockets[0]);
    ::close(sockets[1]);
}

// ------------------------------------------------------------------------------------------- files

TEST_F(TlsTest, AFileThatCannotBeUsedIsNamedWithTheReason) {
    EXPECT_THAT(refusal(), AllOf(StartsWith("tls_certificate: " + path("certificate.pem")),
                                 HasSubstr("cannot be read: No such file")));
    put(identity_);
    EXPECT_EQ(refusal(), "it was taken");
    std::filesystem::remove(path("key.pem"));
    EXPECT_THAT(refusal(), AllOf(StartsWith("tls_key: " + path("key.pem")),
                                 HasSubstr("cannot be read: No such file")));
    file("key.pem", identity_.certificate());
    EXPECT_THAT(refusal(),
                AllOf(StartsWith("tls_key: " + path("key.pem")), HasSubstr("private key")));
    file("key.pem", identity_.key("abcd"));
    EXPECT_THAT(refusal(),
                AllOf(StartsWith("tls_key: " + path("key.pem")), HasSubstr("passphrase")));
    file("key.pem", Identity().key());
    EXPECT_THAT(refusal(), AllOf(StartsWith("tls_key: " + path("key.pem")),
                                 HasSubstr("not the key"), HasSubstr(path("certificate.pem"))));
    put(identity_);
    file("certificate.pem", identity_.key());
    EXPECT_THAT(refusal(),
                AllOf(StartsWith("tls_certificate: "), HasSubstr("holds no certificate")));
    std::string damaged = identity_.certificate();
    damaged.erase(100, 40);
    file("certificate.pem", damaged);
    EXPECT_THAT(refusal(), AllOf(StartsWith("tls_certificate: "), HasSubstr("damaged")));
    file("certificate.pem", identity_.certificate() + damaged);
    EXPECT_THAT(refusal(), AllOf(StartsWith("tls_certificate: "), HasSubstr("damaged")));
    file("certificate.pem", std::string(2u << 20, '\n'));
    EXPECT_THAT(refusal(), HasSubstr("longer than 1 MiB"));
}

TEST_F(TlsTest, ACertificateThatHasExpiredOrIsNotValidYetIsTakenWithAWarning) {
    const Wall now = system_now().wall;
    put(identity_);
    EXPECT_EQ((*make())->warning(now), "");
    EXPECT_THAT((*make())->warning(now + Seconds(4'000)), HasSubstr("has expired at 20"));
    EXPECT_NEAR(static_cast<double>(unix_seconds((*make())->expires())),
                static_cast<double>(unix_seconds(now) + 3'600), 60);
    put(Identity(-7'200, -3'600));
    EXPECT_THAT((*make())->warning(now), HasSubstr("has expired at 20"));
    put(Identity(3'600, 7'200));
    EXPECT_THAT((*make())->warning(now), HasSubstr("is valid from 20"));
}

TEST_F(TlsTest, AReloadThatFailsChangesNothingAndIsCounted) {
    put(identity_);
    const auto server = *make();
    const Wall expires = server->expires();
    EXPECT_EQ(server->counters.reloads + server->counters.reloads_failed, 0u);
    const Identity next(-60, 90'000);
    file("key.pem", next.key());  // The certificate is to come yet.
    const auto half = server->reload();
    ASSERT_FALSE(half.has_value());
    EXPECT_THAT(half.error().message, HasSubstr("not the key"));
    EXPECT_EQ(server->expires(), expires);
    EXPECT_EQ(server->counters.reloads_failed, 1u);
    put(next);
    EXPECT_TRUE(server->reload().has_value());
    EXPECT_GT(server->expires(), expires + Seconds(80'000));
    EXPECT_EQ(server->counters.reloads, 1u);
}

TEST_F(TlsTest, AClientSaysWhichFileItCannotUse) {
    EXPECT_THAT(Client::make({.ca_file = path("none.pem")}).error().message,
                HasSubstr(path("none.pem") + " cannot be read"));
    EXPECT_THAT(Client::make({.pin_file = file("key.pem", identity_.key())}).error().message,
                HasSubstr("holds no certificate"));
}

// ------------------------------------------------------------------------------------- connections

class TlsHttpTest : public TlsTest {
 protected:
    static constexpr std::size_t kLarge = 5u << 20;

    void TearDown() override {
        if (beside_.joinable()) {
            beside_.join();
        }
    }

    void serve(http::ServerOptions options = {}) {
        put(identity_);
        tls_ = *make();
        options.tls = tls_;
        http_ = std::make_unique<http::Server>(
            loop_, options, [](const http::Request& request, http::Server::Respond respond) {
                std::string body = request.encrypted ? "encrypted" : "plain";
                if (request.path == "/large") {
                    body.clear();
                    for (std::size_t i = 0; body.size() < kLarge; ++i) {
                        body += std::to_string(i) + ",";
                    }
                }
                respond({.body = body + request.body});
            });
        ASSERT_TRUE(http_->start().has_value());
    }
    void run() {
        Timer limit(loop_, [&] {
            ADD_FAILURE() << "not done within fifteen seconds";
            loop_.stop();
        });
        limit.set(in(15'000));
        loop_.run();
    }
    Result<http::Response> ask(http::Client& client, const std::string& target = "/",
                               const std::string& body = "") {
        std::optional<Result<http::Response>> result;
        client.request("POST", target, body, in(30'000), [&](Result<http::Response> got) {
            result = std::move(got);
            loop_.stop();
        });
        run();
        return result ? *result : Result<http::Response>(Error{Errc::kInternal, "nothing"});
    }
    Result<http::Response> ask(const Trust& trust, const std::string& host = "127.0.0.1") {
        http::Client client(loop_, "https://" + host + ":" + std::to_string(http_->port()),
                            {.tls = *Client::make(trust)});
        return ask(client);
    }
    Trust pinned() const { return {.pin_file = path("certificate.pem")}; }

    int connect() const {
        const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
        const timeval limit{.tv_sec = 10, .tv_usec = 0};
        ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(http_->port());
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
        return fd;
    }
    static std::string hear_to_the_end(int fd) {
        std::string heard;
        char buffer[4096];
        for (ssize_t n = 0; (n = ::recv(fd, buffer, sizeof buffer, 0)) > 0;) {
            heard.append(buffer, static_cast<std::size_t>(n));
        }
        ::close(fd);
        return heard;
    }
    /// A blocking peer beside the loop, which stops when it is done.
    void beside(const std::function<void()>& peer) {
        beside_ = std::thread([this, peer] {
            peer();
            loop_.post([this] { loop_.stop(); });
        });
        run();
        beside_.join();
    }

    Loop loop_;
    std::shared_ptr<Server> tls_;
    std::unique_ptr<http::Server> http_;
    std::thread beside_;
};

TEST_F(TlsHttpTest, RequestsAndLargeAnswersArriveWholeOverOneConnection) {
    serve({.body_bytes_max = 4u << 20});
    http::Client client(loop_, "https://127.0.0.1:" + std::to_string(http_->port()),
                        {.tls = *Client::make(pinned())});
    const std::string body(3u << 20, 'b');
    const auto echoed = ask(client, "/", body);
    ASSERT_TRUE(echoed.has_value()) << echoed.error().message;
    EXPECT_EQ(echoed->body, "encrypted" + body);
    for (int i = 0; i < 3; ++i) {
        const auto large = ask(client, "/large");
        ASSERT_TRUE(large.has_value()) << large.error().message;
        ASSERT_GE(large->body.size(), kLarge);
        EXPECT_THAT(large->body.substr(0, 10), "0,1,2,3,4,");
        EXPECT_EQ(
            std::count(large->body.begin(), large->body.end(), ','),
            std::stol(large->body.substr(large->body.rfind(',', large->body.size() - 2) + 1)) + 1);
    }
    EXPECT_EQ(tls_->counters.handshakes, 1u);
}

TEST_F(TlsHttpTest, AClientBelievesWhomItIsToldToBelieveAndNobodyElse) {
    serve();
    const std::string certificate = path("certificate.pem");
    EXPECT_TRUE(ask({.ca_file = certificate}).has_value());
    EXPECT_TRUE(ask({.pin_file = certificate}).has_value());
    EXPECT_TRUE(ask({.pin_file = certificate}, "localhost").has_value());
    EXPECT_TRUE(ask({.insecure = true}, "localhost").has_value());
    EXPECT_THAT(ask({}).error().message, HasSubstr("certificate is not believed: self"));
    EXPECT_THAT(ask({.ca_file = certificate}, "localhost").error().message,
                HasSubstr("certificate is not believed: hostname mismatch"));
    const std::string other = file("other.pem", Identity().certificate());
    EXPECT_THAT(ask({.ca_file = other}).error().message, HasSubstr("is not believed"));
    EXPECT_THAT(ask({.pin_file = other}).error().message, HasSubstr("is not believed"));
    put(Identity(-7'200, -3'600));
    ASSERT_TRUE(tls_->reload().has_value());
    EXPECT_THAT(ask({.ca_file = certificate}).error().message, HasSubstr("has expired"));
}

TEST_F(TlsHttpTest, AClientThatSpeaksPlainHttpIsToldSo) {
    serve();
    std::string answer;
    beside([&] {
        const int fd = connect();
        const std::string request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        ::send(fd, request.data(), request.size(), MSG_NOSIGNAL);
        answer = hear_to_the_end(fd);
    });
    EXPECT_THAT(answer, AllOf(StartsWith("HTTP/1.1 400 "), HasSubstr("speaks TLS: use https://")));
    EXPECT_EQ(tls_->counters.handshakes_failed, 1u);
}

TEST_F(TlsHttpTest, APeerThatStopsInTheMiddleOfTheHandshakeIsClosedInTime) {
    serve({.handshake_max = Millis(100)});
    beside([&] {
        const int silent = connect();
        const int half = connect();
        ::send(half, "\x16\x03\x01\x02\x00\x01", 6, MSG_NOSIGNAL);
        EXPECT_EQ(hear_to_the_end(silent), "");
        EXPECT_EQ(hear_to_the_end(half), "");
    });
    EXPECT_EQ(tls_->counters.handshakes_failed, 2u);
}

TEST_F(TlsHttpTest, BeyondTheMostHandshakesTheOldestIsGivenUpAndANewOneSucceeds) {
    serve({.handshakes_max = 3});
    std::vector<int> silent;
    beside([&] {
        for (int i = 0; i < 6; ++i) {
            silent.push_back(connect());
        }
        for (int i = 0; i < 3; ++i) {
            EXPECT_EQ(hear_to_the_end(silent[static_cast<std::size_t>(i)]), "");
        }
    });
    EXPECT_TRUE(ask(pinned()).has_value());
    EXPECT_EQ(tls_->counters.handshakes_failed, 4u) << "the fourth made room for the client";
    for (std::size_t i = 3; i < silent.size(); ++i) {
        ::close(silent[i]);
    }
}

TEST_F(TlsHttpTest, AnHttpsClientAgainstAPlainServerSaysWhatIsWrong) {
    http::Server plain(loop_, {},
                       [](const http::Request&, http::Server::Respond respond) { respond({}); });
    ASSERT_TRUE(plain.start().has_value());
    http::Client client(loop_, "https://127.0.0.1:" + std::to_string(plain.port()),
                        {.tls = *Client::make({.insecure = true})});
    EXPECT_THAT(ask(client).error().message, HasSubstr("does not speak TLS"));
}

TEST_F(TlsHttpTest, AnHttpsUrlWithoutTrustIsRefusedAndNotSentInThePlain) {
    serve();
    http::Client client(loop_, "https://127.0.0.1:" + std::to_string(http_->port()));
    EXPECT_THAT(ask(client).error().message, HasSubstr("is not a URL as http://"));
}

TEST_F(TlsHttpTest, AServerThatEndsWithHandshakesOnTheirWayLeavesNothing) {
    serve();
    const int half = connect();
    ::send(half, "\x16\x03\x01", 3, MSG_NOSIGNAL);
    beside([&] {
        loop_.post([this] { http_.reset(); });
        EXPECT_EQ(hear_to_the_end(half), "");
    });
}

}  // namespace
}  // namespace sigmacast::tls
