// TLS for sockets that the loop watches: a server's certificate and key, what a client trusts, and
// the encryption of one connection. OpenSSL stays in the .cc; transport.h waits for the sockets.
//
//     auto server = tls::Server::make(certificate_file, key_file);
//     Transport transport(std::move(socket), (*server)->open(descriptor));  // transport.h
//     (*server)->reload();  // The files were renewed: counts for what is opened from now on.
//
// TLS 1.2 and 1.3 with Mozilla's "intermediate" ciphers, ALPN http/1.1, sessions resumed by tickets
// (nothing is kept for them), no renegotiation. It knows no client certificates and no passphrases.
// A Server is thread safe, so that io threads share one; all else runs on: the loop. A Session
// never blocks and holds 16 KiB at most of what is to be sent.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <boost/system/error_code.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "common/result.h"
#include "common/time.h"

namespace sigmacast::tls {

/// One connection, over a connected socket that its owner closes, after this has ended.
class Session {
 public:
    enum class Wants { kNothing, kRead, kWrite };  // Of the socket, before it is tried again.
    struct Outcome {
        std::size_t bytes = 0;
        Wants wants = Wants::kNothing;
        /// asio's eof where the peer said that it ends; anything else is final, too: why() tells.
        boost::system::error_code error = {};
    };

    ~Session();
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    Outcome handshake();
    Outcome read(void* into, std::size_t size);
    /// Takes some of the bytes, at most one record. What it wanted to be tried again with has to
    /// come again: the same bytes first, then perhaps more.
    Outcome write(const iovec* parts, std::size_t count);
    /// Tells the peer that nothing follows, where that is possible without waiting.
    void close_notify();

    /// What went wrong, for a person; empty where nothing did.
    [[nodiscard]] const std::string& why() const;
    /// The handshake failed since the peer speaks HTTP without TLS: it can still be answered.
    [[nodiscard]] bool heard_http() const;

 private:
    friend class Server;
    friend class Client;
    struct Impl;
    explicit Session(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

class Server {
 public:
    struct Counters {
        std::atomic<std::uint64_t> handshakes{0};
        std::atomic<std::uint64_t> handshakes_failed{0};  // Bad, too slow, peers that went away.
        std::atomic<std::uint64_t> reloads{0};
        std::atomic<std::uint64_t> reloads_failed{0};
    };

    /// PEM files: the certificate, its chain after it, and its key. Errors: kInvalid, beginning
    /// with tls_certificate or tls_key, and naming the file.
    static Result<std::shared_ptr<Server>> make(std::string certificate_file, std::string key_file);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    /// Reads both files again. With an error, as of make(), everything stays as it was.
    Result<> reload();
    [[nodiscard]] std::unique_ptr<Session> open(int socket) const;

    [[nodiscard]] Wall expires() const;
    /// What clients will not like about the certificate's dates; empty: nothing.
    [[nodiscard]] std::string warning(Wall now) const;

    Counters counters;

 private:
    Server(std::string certificate_file, std::string key_file);
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// Whom a client believes. Without any of these: the system's authorities, and the server's name.
struct Trust {
    std::string ca_file = {};   // These authorities alone (PEM).
    std::string pin_file = {};  // The first certificate in this file, under whatever name.
    bool insecure = false;      // Anybody.
};

class Client {
 public:
    /// Errors: kInvalid, naming the file.
    static Result<std::shared_ptr<Client>> make(const Trust& trust);
    ~Client();
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    /// `host`: the name, or address, that the server has to prove.
    [[nodiscard]] std::unique_ptr<Session> open(int socket, const std::string& host) const;

 private:
    struct Impl;
    explicit Client(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace sigmacast::tls
