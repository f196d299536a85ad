#include "common/bus_gate.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "common/log.h"

namespace sigmacast::bus {
namespace {

constexpr std::size_t kRequestFrames = 7;  // version, id, domain, address, identity, mechanism, key
constexpr std::size_t kFrameBytesMax = 512;  // Of a request: more is cut off.
constexpr int kAnswersMax = 256;             // In one turn; what is left comes in the next.
constexpr Millis kLogWindow{60'000};
constexpr Millis kComplainAgain{60'000};
/// Between the tries of a socket that was turned away.
constexpr Millis kConnectAgain{1'000};
/// A handshake may be cut off by a restart; this many in a row mean something.
constexpr int kCutOffMax = 3;

enum RequestFrame { kVersion, kId, kDomain, kAddress, kIdentity, kMechanism, kKey };

Error zmq_failed(const std::string& what) {
    return {Errc::kInternal, what + ": " + zmq_strerror(zmq_errno())};
}

/// All frames of one message, or nothing where none waits.
std::vector<std::string> receive(void* socket) {
    std::vector<std::string> frames;
    int more = 0;
    do {
        std::array<char, kFrameBytesMax> bytes{};
        const int size = zmq_recv(socket, bytes.data(), bytes.size(), ZMQ_DONTWAIT);
        if (size < 0) {
            return {};
        }
        frames.emplace_back(bytes.data(), std::min(static_cast<std::size_t>(size), bytes.size()));
        std::size_t length = sizeof more;
        zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &length);
    } while (more != 0 && frames.size() <= kRequestFrames);
    return frames;
}

std::string z85(const std::string& key) {
    std::array<char, 41> text{};
    return key.size() == 32 &&
                   zmq_z85_encode(text.data(), reinterpret_cast<const std::uint8_t*>(key.data()),
                                  key.size()) != nullptr
               ? std::string(text.data())
               : std::string();
}

/// Address and port of a connection's other end; empty where it has gone, or has none.
std::string address_of(std::uint32_t descriptor) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    if (::getpeername(static_cast<int>(descriptor), reinterpret_cast<sockaddr*>(&address), &size) !=
        0) {
        return {};
    }
    std::array<char, INET6_ADDRSTRLEN> text{};
    if (address.ss_family == AF_INET) {
        const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
        ::inet_ntop(AF_INET, &v4.sin_addr, text.data(), text.size());
        return std::string(text.data()) + ":" + std::to_string(ntohs(v4.sin_port));
    }
    if (address.ss_family == AF_INET6) {
        const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
        ::inet_ntop(AF_INET6, &v6.sin6_addr, text.data(), text.size());
        return "[" + std::string(text.data()) + "]:" + std::to_string(ntohs(v6.sin6_port));
    }
    return {};
}

}  // namespace

std::optional<std::uint64_t> LogLimit::pass(Mono now) {
    if (!began_ || elapsed(*began_, now) >= kLogWindow) {
        began_ = now;
        lines_ = 0;
    }
    if (lines_ >= lines_max_) {
        ++left_out_;
        return std::nullopt;
    }
    ++lines_;
    return std::exchange(left_out_, 0);
}

// ----------------------------------------------------------------------------------------------
// gate

Gate::Gate(const std::vector<CurveClient>& clients, std::vector<Door> doors)
    : doors_(std::move(doors)) {
    for (const CurveClient& client : clients) {
        for (const std::string& key : client.public_keys) {
            clients_[key] = {client.name, client.rights, false};
            // Whoever put a secret key into the list is told so when its owner comes.
            if (const auto derived = public_key_of(key)) {
                clients_.try_emplace(*derived, Client{client.name, 0, true});
            }
        }
    }
}

Gate::~Gate() {
    close();
}

Result<> Gate::open(void* context) {
    socket_ = zmq_socket(context, ZMQ_REP);
    if (socket_ == nullptr || zmq_bind(socket_, "inproc://zeromq.zap.01") != 0) {
        return zmq_failed("cannot make the socket that judges keys");
    }
    return {};
}

void Gate::close() {
    if (socket_ != nullptr) {
        zmq_close(std::exchange(socket_, nullptr));
    }
}

void Gate::answer(Mono now) {
    for (int i = 0; i < kAnswersMax; ++i) {
        const std::vector<std::string> request = receive(socket_);
        if (request.empty()) {
            return;
        }
        const Verdict verdict = judge(request);
        if (verdict.client.empty()) {
            ++denied_;
            log_denied(request, verdict.why, now);
        }
        const std::array<std::string, 6> reply{"1.0",
                                               request.size() > kId ? request[kId] : "",
                                               verdict.client.empty() ? "400" : "200",
                                               "",
                                               verdict.client,
                                               ""};
        for (std::size_t frame = 0; frame < reply.size(); ++frame) {
            zmq_send(socket_, reply[frame].data(), reply[frame].size(),
                     ZMQ_DONTWAIT | (frame + 1 < reply.size() ? ZMQ_SNDMORE : 0));
        }
    }
}

Gate::Verdict Gate::judge(const std::vector<std::string>& request) const {
    if (request.size() != kRequestFrames || request[kMechanism] != "CURVE") {
        return {"", "it shows no key"};
    }
    const auto known = clients_.find(z85(request[kKey]));
    if (known == clients_.end()) {
        return {"", "its key is in no [[curve.client]]"};
    }
    const Client& client = known->second;
    if (client.by_secret) {
        return {"", "[[curve.client]] " + client.name +
                        " holds its secret key: make a new one there, and list the public one"};
    }
    const std::size_t door = std::strtoul(request[kDomain].c_str(), nullptr, 10);
    if (door >= doors_.size() || (doors_[door].rights & client.rights) == 0) {
        return {"", "[[curve.client]] " + client.name + " may not do this"};
    }
    return {client.name, ""};
}

void Gate::log_denied(const std::vector<std::string>& request, const std::string& why, Mono now) {
    const auto left_out = limit_.pass(now);
    if (!left_out || request.size() != kRequestFrames) {
        return;
    }
    const std::size_t door = std::strtoul(request[kDomain].c_str(), nullptr, 10);
    log_warn("a program was turned away",
             {{"why", why},
              {"address", request[kAddress]},
              {"public_key", z85(request[kKey])},
              {"socket", door < doors_.size() ? doors_[door].endpoint : ""},
              {"left_out", *left_out}});
}

// ----------------------------------------------------------------------------------------------
// watch

Watch::~Watch() {
    close();
}

Result<> Watch::open(void* context, void* watched, std::size_t index) {
    const std::string name = "inproc://watch-" + std::to_string(index);
    const int handshakes = ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                           ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
    const int more = ZMQ_EVENT_DISCONNECTED |
                     (options_.bind ? ZMQ_EVENT_ACCEPTED
                                    : ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_CONNECT_RETRIED);
    if (zmq_socket_monitor(watched, name.c_str(), handshakes | more) != 0) {
        return zmq_failed("cannot watch the handshakes of " + options_.endpoint);
    }
    watched_ = watched;
    socket_ = zmq_socket(context, ZMQ_PAIR);
    if (socket_ == nullptr || zmq_connect(socket_, name.c_str()) != 0) {
        return zmq_failed("cannot watch the handshakes of " + options_.endpoint);
    }
    return {};
}

void Watch::close() {
    if (watched_ != nullptr) {
        zmq_socket_monitor(std::exchange(watched_, nullptr), nullptr, 0);
    }
    if (socket_ != nullptr) {
        zmq_close(std::exchange(socket_, nullptr));
    }
}

std::optional<Watch::Event> Watch::next() {
    const std::vector<std::string> frames = receive(socket_);
    Event event;
    if (frames.empty() || frames[0].size() != sizeof event.kind + sizeof event.value) {
        return std::nullopt;
    }
    std::memcpy(&event.kind, frames[0].data(), sizeof event.kind);
    std::memcpy(&event.value, frames[0].data() + sizeof event.kind, sizeof event.value);
    return event;
}

void Watch::take(Mono now) {
    for (int i = 0; i < kAnswersMax; ++i) {
        const std::optional<Event> event = next();
        if (!event) {
            return;
        }
        options_.bind ? on_bound(*event, now) : on_connecting(*event, now);
    }
}

void Watch::on_bound(Event event, Mono now) {
    switch (event.kind) {
        case ZMQ_EVENT_ACCEPTED:
            peers_[event.value] = address_of(event.value);
            break;
        case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:  // It went away, or timed out: counted only.
            ++failed_;
            break;
        case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:  // The disconnection, which comes next, says of
            ++failed_;                             // whom.
            turned_away_ = event.value;
            break;
        case ZMQ_EVENT_DISCONNECTED: {
            const auto peer = peers_.extract(event.value);
            if (turned_away_) {
                log_turned_away(peer ? peer.mapped() : "", now);
            }
            break;
        }
        default:  // A key that was denied: the gate has said so.
            break;
    }
}

void Watch::log_turned_away(const std::string& peer, Mono now) {
    const std::uint32_t problem = *std::exchange(turned_away_, std::nullopt);
    const bool plain = options_.own_key.empty();
    const auto left_out = limit_.pass(now);
    if (!left_out) {
        return;
    }
    const char* why = "what it sends is not what Sigmacast's programs send";
    if (problem == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH) {
        why = plain ? "it has a key, and this broker has none: set curve.broker_key_file here, or "
                      "take [curve] out there"
                    : "it has no key: set [curve] there";
    } else if (problem == ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC) {
        why = "it expects another broker: its curve.broker_public_key is not this one's";
    }
    log_warn(
        "a program was turned away",
        {{"why", why}, {"address", peer}, {"socket", options_.endpoint}, {"left_out", *left_out}});
}

void Watch::on_connecting(Event event, Mono now) {
    const bool plain = options_.own_key.empty();
    switch (event.kind) {
        case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
            if (!complaint_.empty()) {
                log_info("the broker lets this program in", {{"broker", options_.endpoint}});
            }
            complaint_.clear();
            in_a_row_ = 0;
            return;
        case ZMQ_EVENT_DISCONNECTED:  // After garbage ZeroMQ gives the address up, without a word.
            connect_at_ = now + kConnectAgain;
            return;
        case ZMQ_EVENT_CONNECT_RETRIED:  // Else it comes back by itself.
            connect_at_.reset();
            return;
        case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            ++failed_;
            if (++in_a_row_ >= kCutOffMax) {
                complain("the broker breaks off each handshake",
                         plain ? "does it ask for a key (then set [curve] here too), and is it a "
                                 "Sigmacast broker that is well?"
                               : "is curve.broker_public_key the broker's, and is the broker well?",
                         now);
            }
            return;
        case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
            ++failed_;
            connect_at_ = now + kConnectAgain;
            complain("the broker refuses this program's key",
                     "list it, with what it may do, in [[curve.client]] of the broker", now);
            return;
        case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
            ++failed_;
            connect_at_ = now + kConnectAgain;
            if (event.value != ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH) {
                complain("what answers is not the broker that was expected",
                         "is it a Sigmacast broker that has this address, and is "
                         "curve.broker_public_key its key?",
                         now);
            } else if (plain) {
                complain("the broker asks for a key, and this program has none",
                         "set [curve] here too", now);
            } else {
                complain("the broker has no key, and this program does not talk to such",
                         "set curve.broker_key_file there, or take [curve] out here", now);
            }
            return;
        default:
            return;
    }
}

/// Once a change, and once a minute while it lasts.
void Watch::complain(const std::string& what, const std::string& hint, Mono now) {
    if (what == complaint_ && elapsed(complained_, now) < kComplainAgain) {
        return;
    }
    complaint_ = what;
    complained_ = now;
    if (options_.own_key.empty()) {
        log_warn(what, {{"broker", options_.endpoint}, {"hint", hint}});
    } else {
        log_warn(
            what,
            {{"broker", options_.endpoint}, {"own_public_key", options_.own_key}, {"hint", hint}});
    }
}

}  // namespace sigmacast::bus
