// Who gets through to the bus's sockets, and who is told why not. A part of bus.cc, in a file of
// its own; nobody else needs it. Runs on: the bus thread (counts: any).
//
// A Gate answers for each key that a program shows whether it is let in (ZeroMQ asks by ZAP,
// https://rfc.zeromq.org/spec/27). A Watch follows the handshakes of one socket: it logs those that
// fail, on the side that binds and on the side that connects, at a bounded rate, and says when a
// socket that was turned away has to connect anew (ZeroMQ itself gives up for good then).
// Sockets are ZeroMQ's own (void*), so that its header stays out of this one.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/curve.h"
#include "common/result.h"
#include "common/time.h"

namespace sigmacast::bus {

/// So many lines a minute at most.
class LogLimit {
 public:
    explicit LogLimit(int lines_max = 10) : lines_max_(lines_max) {}

    /// Nothing: this line is one too many. Else how many were left out before it.
    std::optional<std::uint64_t> pass(Mono now);

 private:
    const int lines_max_;
    std::optional<Mono> began_;
    int lines_ = 0;
    std::uint64_t left_out_ = 0;
};

class Gate {
 public:
    /// What a key needs for a binding socket, and the socket's endpoint for the log; `domain` of
    /// its handshakes is the index in this list.
    struct Door {
        unsigned rights = 0;  // One of them is enough.
        std::string endpoint;
    };

    Gate(const std::vector<CurveClient>& clients, std::vector<Door> doors);
    ~Gate();
    Gate(const Gate&) = delete;
    Gate& operator=(const Gate&) = delete;

    /// To be called before any socket binds. Errors: kInternal.
    Result<> open(void* context);
    [[nodiscard]] void* socket() const { return socket_; }
    /// Answers what waits.
    void answer(Mono now);
    void close();
    [[nodiscard]] std::uint64_t denied() const { return denied_; }

 private:
    struct Client {
        std::string name;
        unsigned rights = 0;
        bool by_secret = false;  // The list holds the secret key that belongs to this public one.
    };
    struct Verdict {
        std::string client;  // Empty: not let in.
        std::string why;
    };
    [[nodiscard]] Verdict judge(const std::vector<std::string>& request) const;
    void log_denied(const std::vector<std::string>& request, const std::string& why, Mono now);

    std::map<std::string, Client> clients_;  // By public key.
    const std::vector<Door> doors_;
    void* socket_ = nullptr;
    LogLimit limit_;
    std::atomic<std::uint64_t> denied_ = 0;
};

class Watch {
 public:
    struct Options {
        std::string endpoint;
        bool bind = false;
        std::string own_key = {};  // Public; empty: plain.
    };

    explicit Watch(Options options) : options_(std::move(options)) {}
    ~Watch();
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

    /// Errors: kInternal.
    Result<> open(void* context, void* watched, std::size_t index);
    [[nodiscard]] void* socket() const { return socket_; }
    /// Reads what has happened.
    void take(Mono now);
    /// When the socket has to connect anew, if so.
    [[nodiscard]] std::optional<Mono> connect_at() const { return connect_at_; }
    void connected_anew() { connect_at_.reset(); }
    void close();
    /// Handshakes that failed before any key was judged.
    [[nodiscard]] std::uint64_t failed() const { return failed_; }

 private:
    struct Event {
        std::uint16_t kind = 0;
        std::uint32_t value = 0;
    };
    [[nodiscard]] std::optional<Event> next();
    void on_bound(Event event, Mono now);
    void on_connecting(Event event, Mono now);
    void log_turned_away(const std::string& peer, Mono now);
    void complain(const std::string& what, const std::string& hint, Mono now);

    const Options options_;
    void* watched_ = nullptr;
    void* socket_ = nullptr;
    LogLimit limit_;
    // Binding: addresses of those that are there, by descriptor; the error whose peer comes next.
    std::map<std::uint32_t, std::string> peers_;
    std::optional<std::uint32_t> turned_away_;
    // Connecting.
    std::string complaint_;
    Mono complained_{};
    int in_a_row_ = 0;
    std::optional<Mono> connect_at_;
    std::atomic<std::uint64_t> failed_ = 0;
};

}  // namespace sigmacast::bus
