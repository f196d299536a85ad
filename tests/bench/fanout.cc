// sigmacast-bench-fanout: the clients and the feed of tests/bench/run, in one process, so that it
// knows what is in flight.
//
//   --port P --clients N      where the clients connect to, 127.0.0.1
//   --speak raw|v1|nats|mqtt  what is spoken over the WebSocket: nothing (whoever is connected gets
//                             everything), sigmacast.v1.json, NATS, MQTT 3.1.1
//   --path /                  of the upgrade
//   --topic bench             of `v1` and `publish`
//   --topics 1                of more, bench.0, bench.1 and so on take the events in turns, and
//   each
//                             client subscribes to all (over 256: to "*")
//   --subscribe 1|0           0: a client counts as connected once it is greeted, and says nothing
//   --feed-fd F               an open descriptor (a socket, a pipe) that takes the events
//   --feed lines|publish|post|nats|mqtt   and in which words: the payload, a line for `sigmacast
//                             publish`, a POST to --feed-path, PUB of NATS, PUBLISH of MQTT
//   --quiet S                 a run is given up when nothing has come for so long (10)
//   --bytes B                 of each payload (of "data", where the server makes an envelope)
//
// It is told what to do on standard input, and answers each line with one of JSON:
//
//   connect                   all connect, kConnectingMax at a time
//   run SECONDS RATE BURST    RATE events a second, BURST at one time; stamped with the time when
//                             they were due, so that lateness of whoever sends counts as latency
//   run SECONDS 0 WINDOW      as fast as they come: the next is sent when all clients have the one
//                             that is WINDOW before it
//   leave                     all close
//   feed EVENTS               so many events while nobody is there
//   return CONNECTING         all come back, CONNECTING at a time, and resume (v1) from what they
//   had
//                             when they left: each must get what was fed meanwhile
//
// A run ends when every client has every event, or nothing has come for --quiet. Each client must
// see each number once and in order; `gaps` counts where one did not.
//
// One thread, epoll, raw sockets, as little work a message as can be.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/bench/measuring.h"

namespace sigmacast::bench {
namespace {

using ull = unsigned long long;

constexpr std::size_t kReadBytes = 256u << 10;
constexpr std::size_t kMessageBytesMax = 16u << 20;
constexpr std::size_t kConnectingMax = 128;      // Unanswered handshakes at one time.
constexpr std::size_t kFeedBytesMax = 1u << 20;  // Unsent; a feed that takes no more ends the run.
constexpr int kReadyMax = 64;  // Sockets read between two looks at the feed's clock.
constexpr std::int64_t kConnectNs = 60 * kSecondNs;
constexpr std::uint64_t kNamesMax = 256;  // Of one subscribe.
constexpr std::string_view kTopic = "bench";
constexpr std::string_view kNumber = "\"bench_n\":";
constexpr std::string_view kStamp = "\"bench_t\":";
constexpr std::string_view kPosition = "\"pos\":";
constexpr std::string_view kEpoch = "\"epoch\":\"";

[[noreturn]] void die(const std::string& what) {
    std::fprintf(stderr, "sigmacast-bench-fanout: %s\n", what.c_str());
    std::exit(1);
}

enum class Speak { kRaw, kV1, kNats, kMqtt };
enum class Feed { kLines, kPublish, kPost, kNats, kMqtt };

struct Options {
    std::uint16_t port = 0;
    std::size_t clients = 1000;
    Speak speak = Speak::kRaw;
    std::string path = "/";
    std::string topic{kTopic};
    std::uint64_t topics = 1;
    bool subscribe = true;
    int feed_fd = -1;
    Feed feed = Feed::kLines;
    std::string feed_path = "/";
    std::size_t bytes = 288;
    std::int64_t quiet = 10 * kSecondNs;
};

// --------------------------------------------------------------------------------------------------
// what is said

std::string masked_frame(unsigned opcode, std::string_view payload) {
    std::string frame;
    frame += static_cast<char>(0x80u | opcode);
    if (payload.size() < 126) {
        frame += static_cast<char>(0x80u | payload.size());
    } else {
        frame += static_cast<char>(0x80u | 126u);
        frame += static_cast<char>(payload.size() >> 8);
        frame += static_cast<char>(payload.size() & 0xffu);
    }
    frame.append(4, '\0');  // A mask of zeros: it masks nothing, and is one.
    frame += payload;
    return frame;
}

std::string mqtt_packet(unsigned type, std::string_view body) {
    std::string packet(1, static_cast<char>(type));
    std::size_t size = body.size();
    do {
        packet += static_cast<char>((size & 0x7fu) | (size > 0x7f ? 0x80u : 0u));
        size >>= 7;
    } while (size != 0);
    return packet.append(body);
}

std::string mqtt_text(std::string_view text) {
    return std::string{static_cast<char>(text.size() >> 8), static_cast<char>(text.size() & 0xffu)}
        .append(text);
}

std::string topic_of(const Options& options, std::uint64_t n) {
    return options.topics > 1 ? options.topic + '.' + std::to_string(n % options.topics)
                              : options.topic;
}

/// One event as the server's feed takes it.
std::string event_text(const Options& options, std::uint64_t n, std::int64_t at) {
    std::string data = "{";
    data.append(kNumber).append(std::to_string(n)).append(",");
    data.append(kStamp).append(std::to_string(at)).append(R"(,"p":")");
    data.append(options.bytes > data.size() + 2 ? options.bytes - data.size() - 2 : 0, 'x');
    data += "\"}";
    switch (options.feed) {
        case Feed::kLines:
            return data + "\n";
        case Feed::kPublish:
            return R"({"type":")" + topic_of(options, n) + R"(","data":)" + data + "}\n";
        case Feed::kPost:
            return "POST " + options.feed_path +
                   " HTTP/1.1\r\nHost: bench\r\nContent-Length: " + std::to_string(data.size()) +
                   "\r\n\r\n" + data;
        case Feed::kNats:
            return "PUB bench " + std::to_string(data.size()) + "\r\n" + data + "\r\n";
        case Feed::kMqtt:
            return mqtt_packet(0x30, mqtt_text(kTopic) + data);
    }
    return {};
}

/// Up to where a client has seen everything.
struct Cursor {
    std::string epoch;
    std::uint64_t pos = 0;
};

/// What a client says once it is upgraded.
std::string subscription(const Options& options, const std::optional<Cursor>& resume) {
    switch (options.speak) {
        case Speak::kRaw:
            return {};
        case Speak::kV1: {
            std::string text = R"({"type":"subscribe","id":1,"data":{"types":[)";
            for (std::uint64_t i = 0; i < options.topics; ++i) {
                if (options.topics > kNamesMax) {
                    text += R"("*")";
                    break;
                }
                text += (i > 0 ? ",\"" : "\"") + topic_of(options, i) + '"';
            }
            text += ']';
            if (resume) {
                text += R"(,"resume":{"epoch":")" + resume->epoch + R"(","pos":)" +
                        std::to_string(resume->pos) + "}";
            }
            return masked_frame(1, text + "}}");
        }
        case Speak::kNats:
            return masked_frame(
                2, "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB bench 1\r\nPING\r\n");
        case Speak::kMqtt: {
            static int number = 0;
            const std::string id = std::to_string(++number);
            const std::string connect =
                mqtt_text("MQTT") + std::string("\x04\x02\x00\x00", 4) + mqtt_text(id);
            const std::string topics =
                std::string("\x00\x01", 2) + mqtt_text(kTopic) + std::string(1, '\0');
            return masked_frame(2, mqtt_packet(0x10, connect) + mqtt_packet(0x82, topics));
        }
    }
    return {};
}

std::string_view subprotocol(Speak speak) {
    return speak == Speak::kV1     ? "Sec-WebSocket-Protocol: sigmacast.v1.json\r\n"
           : speak == Speak::kMqtt ? "Sec-WebSocket-Protocol: mqtt\r\n"
                                   : "";
}

// --------------------------------------------------------------------------------------------------
// clients

struct Client {
    int fd = -1;
    bool upgraded = false;
    bool subscribed = false;
    std::uint64_t last = 0;  // Number of the newest event.
    std::string bytes;       // Of a frame that is not whole.
    std::string words;       // Of the protocol within, not whole: its messages may span frames.
};

struct Run {
    bool closed_loop = false;
    std::int64_t until = 0;  // No event is due from then on.
    std::int64_t due = 0;    // The next burst.
    std::int64_t every = 0;
    std::uint64_t burst = 1;  // Or the window.
    std::uint64_t first = 0;  // The number before the first event of this run.
    std::int64_t began = 0;
    std::int64_t last_at = 0;
    std::size_t clients = 0;          // So many must have each event.
    std::vector<std::uint32_t> seen;  // By event: clients that have it.
    std::size_t complete = 0;         // So many events are with all clients.
    std::uint64_t delivered = 0;
    std::uint64_t bytes = 0;
    std::uint64_t gaps = 0;
    Histogram latency;
    Histogram late;
    Histogram answered;  // Of a return, from its beginning: clients that are told how it goes on,
    Histogram served;    // and those that have everything.
};

class Fanout {
 public:
    explicit Fanout(Options options) : options_(std::move(options)) {
        if (options_.feed_fd >= 0) {
            fcntl(options_.feed_fd, F_SETFL, O_NONBLOCK);
        }
        watch(STDIN_FILENO, kStdin, EPOLL_CTL_ADD, EPOLLIN);
        clients_.resize(options_.clients);
    }

    [[noreturn]] void run() {
        while (true) {
            const std::string line = next_command();
            std::istringstream words(line);
            std::string command;
            words >> command;
            if (command == "connect") {
                connect_all();
            } else if (command == "run") {
                double seconds = 0;
                double rate = 0;
                std::uint64_t burst = 1;
                words >> seconds >> rate >> burst;
                if (!words || options_.feed_fd < 0) {
                    die("run takes SECONDS RATE BURST, and needs --feed-fd");
                }
                run_feed(seconds, rate, burst);
            } else if (command == "leave") {
                leave_all();
            } else if (command == "feed") {
                std::size_t events = 0;
                words >> events;
                feed_unheard(events);
            } else if (command == "return") {
                std::size_t connecting = 0;
                words >> connecting;
                return_all(connecting);
            } else {
                die("unknown command " + line);
            }
        }
    }

 private:
    void watch(int fd, std::uint64_t what, int operation, std::uint32_t events) const {
        epoll_event event{};
        event.events = events;
        event.data.u64 = what;
        epoll_ctl(epoll_, operation, fd, &event);
    }

    /// Waits for at most `timeout` and handles what is ready.
    void step(std::int64_t timeout) {
        std::array<epoll_event, kReadyMax> ready{};
        const timespec wait{.tv_sec = timeout / kSecondNs, .tv_nsec = timeout % kSecondNs};
        const int count = epoll_pwait2(epoll_, ready.data(), kReadyMax, &wait, nullptr);
        for (int i = 0; i < count; ++i) {
            const std::uint64_t what = ready[static_cast<std::size_t>(i)].data.u64;
            if (what == kStdin) {
                read_commands();
            } else if (what == kFeed) {
                feed_ready();
            } else if (clients_[what].fd >= 0) {
                read(clients_[what]);
            }
        }
    }

    // Commands ----------------------------------------------------------------------------------
    std::string next_command() {
        std::size_t end = 0;
        while ((end = commands_.find('\n')) == std::string::npos) {
            if (ended_) {
                std::exit(0);
            }
            step(kSecondNs);
        }
        const std::string line = commands_.substr(0, end);
        commands_.erase(0, end + 1);
        return line;
    }

    void read_commands() {
        std::array<char, 512> bytes{};
        const ssize_t got = ::read(STDIN_FILENO, bytes.data(), bytes.size());
        if (got <= 0) {  // What has been said until then is still done.
            epoll_ctl(epoll_, EPOLL_CTL_DEL, STDIN_FILENO, nullptr);
            ended_ = true;
            return;
        }
        commands_.append(bytes.data(), static_cast<std::size_t>(got));
    }

    // Connecting --------------------------------------------------------------------------------
    void connect_all() {
        const std::int64_t began = now_ns();
        open_all(kConnectingMax, began);
        char out[160];
        std::snprintf(
            out, sizeof out, R"({"event":"connect","connected":%zu,"failed":%zu,"seconds":%.4f})",
            connected_, clients_.size() - connected_, static_cast<double>(now_ns() - began) / 1e9);
        say(out);
    }

    void open_all(std::size_t connecting_max, std::int64_t began) {
        std::size_t next = 0;
        connected_ = failed_ = 0;
        while (connected_ + failed_ < clients_.size() && now_ns() < began + kConnectNs) {
            while (next < clients_.size() && next - connected_ - failed_ < connecting_max) {
                open(next++);
            }
            step(kSecondNs / 10);
        }
    }

    /// Events for those who will come back.
    void feed_unheard(std::size_t events) {
        run_ = Run();
        run_.first = sent_;
        run_.clients = clients_.size();
        for (std::size_t i = 0; i < events; ++i) {
            add_event(now_ns());
            send_feed();
            while (unsent_.size() > kFeedBytesMax / 2) {
                step(kSecondNs / 100);
                send_feed();
            }
        }
        while (!unsent_.empty()) {
            step(kSecondNs / 100);
            send_feed();
        }
        say(R"({"event":"feed"})");
    }

    void return_all(std::size_t connecting_max) {
        if (connecting_max == 0 || cursor_.epoch.empty()) {
            die("return takes CONNECTING, and needs v1 clients that have heard an event");
        }
        resume_ = cursor_;
        run_.began = run_.last_at = now_ns();
        open_all(connecting_max, run_.began);
        while (run_.complete < run_.seen.size() && now_ns() - run_.last_at < options_.quiet) {
            step(kSecondNs / 100);
        }
        resume_.reset();
        tell_run();
    }

    void open(std::size_t index) {
        Client& client = clients_[index];
        client = {};
        client.fd = socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(options_.port);
        // Loopback: it is connected, or refused, at once.
        if (client.fd < 0 ||
            connect(client.fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
            lost(client);
            return;
        }
        const int on = 1;
        setsockopt(client.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        const std::string request =
            "GET " + options_.path +
            " HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(options_.port) +
            "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n" +
            std::string(subprotocol(options_.speak)) + "\r\n";
        put(client, request);
        watch(client.fd, index, EPOLL_CTL_ADD, EPOLLIN);
    }

    static void put(const Client& client, std::string_view bytes) {
        // Small, and the first of its connection or far between: the socket takes it whole.
        static_cast<void>(send(client.fd, bytes.data(), bytes.size(), MSG_NOSIGNAL));
    }

    void lost(Client& client) {
        if (client.fd >= 0) {
            close(client.fd);
        }
        client.fd = -1;
        ++(client.subscribed ? closed_ : failed_);
    }

    void is_subscribed(Client& client) {
        if (!client.subscribed) {
            client.subscribed = true;
            client.last = resume_ ? run_.first : sent_;  // Nothing is fed while clients connect.
            ++connected_;
            run_.answered.add((now_ - run_.began) / 1000);
        }
    }

    void leave_all() {
        for (Client& client : clients_) {
            if (client.fd >= 0) {
                close(client.fd);
            }
            client = {};
        }
        say(R"({"event":"leave"})");
    }

    // Reading -----------------------------------------------------------------------------------
    void read(Client& client) {
        const ssize_t got = recv(client.fd, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
        if (got <= 0) {
            if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
                lost(client);
            }
            return;
        }
        now_ = now_ns();
        const std::string_view bytes(buffer_.data(), static_cast<std::size_t>(got));
        if (client.bytes.empty()) {
            client.bytes = take(client, bytes);
        } else {
            client.bytes += bytes;
            client.bytes = take(client, client.bytes);
        }
    }

    /// Consumes whole frames; returns what is left.
    std::string take(Client& client, std::string_view bytes) {
        if (!client.upgraded) {
            const std::size_t end = bytes.find("\r\n\r\n");
            if (end == std::string_view::npos) {
                return std::string(bytes);
            }
            if (bytes.find(" 101 ") > 16) {
                die("the server refused: " + std::string(bytes.substr(0, bytes.find('\r'))));
            }
            client.upgraded = true;
            bytes.remove_prefix(end + 4);
            if (options_.subscribe) {
                put(client, subscription(options_, resume_));
            }
            // Neither greets anyone.
            if (options_.speak == Speak::kRaw ||
                (options_.speak == Speak::kMqtt && !options_.subscribe)) {
                is_subscribed(client);
            }
        }
        while (bytes.size() >= 2) {
            const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
            std::size_t head = 2;
            std::size_t size = byte(1) & 0x7fu;
            if (size >= 126) {
                const std::size_t digits = size == 126 ? 2 : 8;
                if (bytes.size() < 2 + digits) {
                    break;
                }
                size = 0;
                for (std::size_t i = 0; i < digits; ++i) {
                    size = size << 8 | byte(2 + i);
                }
                head += digits;
            }
            if (size > kMessageBytesMax) {
                die("a frame of " + std::to_string(size) + " bytes");
            }
            if (bytes.size() < head + size) {
                break;
            }
            on_frame(client, byte(0) & 0x0fu, bytes.substr(head, size));
            bytes.remove_prefix(head + size);
        }
        return std::string(bytes);
    }

    void on_frame(Client& client, unsigned opcode, std::string_view payload) {
        if (opcode == 9) {
            put(client, masked_frame(10, payload));
        } else if (opcode > 2) {
            return;
        } else if (options_.speak == Speak::kNats || options_.speak == Speak::kMqtt) {
            if (client.words.empty()) {
                client.words = take_words(client, payload);
            } else {
                client.words += payload;
                client.words = take_words(client, client.words);
            }
        } else {
            on_message(client, payload);
        }
    }

    std::string take_words(Client& client, std::string_view words) {
        while (!words.empty()) {
            const std::size_t size = options_.speak == Speak::kNats ? take_nats(client, words)
                                                                    : take_mqtt(client, words);
            if (size == 0) {
                break;
            }
            words.remove_prefix(size);
        }
        return std::string(words);
    }

    /// Bytes of the first message, 0 while it is not whole.
    std::size_t take_nats(Client& client, std::string_view words) {
        const std::size_t end = words.find("\r\n");
        if (end == std::string_view::npos) {
            return 0;
        }
        const std::string_view line = words.substr(0, end);
        if (line.starts_with("MSG ")) {
            std::size_t size = 0;
            const std::size_t at = line.rfind(' ') + 1;
            std::from_chars(line.data() + at, line.data() + line.size(), size);
            if (size > kMessageBytesMax) {
                die("NATS announces a message of " + std::to_string(size) + " bytes");
            }
            if (words.size() < end + 2 + size + 2) {
                return 0;
            }
            on_message(client, words.substr(end + 2, size));
            return end + 2 + size + 2;
        }
        if (line == "PING") {
            put(client, masked_frame(2, "PONG\r\n"));
        } else if (line == "PONG" || (!options_.subscribe && line.starts_with("INFO"))) {
            is_subscribed(client);
        } else if (line.starts_with("-ERR")) {
            die("NATS says " + std::string(line));
        }
        return end + 2;
    }

    std::size_t take_mqtt(Client& client, std::string_view words) {
        std::size_t size = 0;
        std::size_t head = 1;
        unsigned char digit = 0x80;
        for (unsigned shift = 0; (digit & 0x80u) != 0 && shift <= 21; shift += 7, ++head) {
            if (head >= words.size()) {
                return 0;
            }
            digit = static_cast<unsigned char>(words[head]);
            size |= static_cast<std::size_t>(digit & 0x7fu) << shift;
        }
        if (words.size() < head + size) {
            return 0;
        }
        const unsigned type = static_cast<unsigned char>(words[0]) >> 4;
        if (type == 3 && size > 2 + kTopic.size()) {
            on_message(client, words.substr(head + 2 + kTopic.size(), size - 2 - kTopic.size()));
        } else if (type == 9) {
            is_subscribed(client);
        }
        return head + size;
    }

    /// The number after `name`; `hint` is where it was in the message before.
    static std::uint64_t number(std::string_view text, std::string_view name, std::size_t& hint) {
        if (text.size() < hint + name.size() ||
            std::memcmp(text.data() + hint, name.data(), name.size()) != 0) {
            const std::size_t at = text.find(name);
            if (at == std::string_view::npos) {
                return 0;
            }
            hint = at;
        }
        std::uint64_t found = 0;
        std::from_chars(text.data() + hint + name.size(), text.data() + text.size(), found);
        return found;
    }

    void on_message(Client& client, std::string_view text) {
        const std::uint64_t n = number(text, kNumber, number_at_);
        if (n == 0) {  // The server's own words.
            if (options_.speak == Speak::kV1 &&
                (text.starts_with(R"({"type":"subscribed")") ||
                 (!options_.subscribe && text.starts_with(R"({"type":"hello")")))) {
                is_subscribed(client);
            }
            hear_epoch(text);
            return;
        }
        if (n > newest_) {
            newest_ = n;
            cursor_.pos = number(text, kPosition, pos_at_);
        }
        run_.gaps += n != client.last + 1 ? 1u : 0u;
        client.last = n;
        const std::uint64_t index = n - run_.first - 1;
        if (n <= run_.first || index >= run_.seen.size()) {
            return;  // Of a run that was given up.
        }
        ++run_.seen[index];
        while (run_.complete < run_.seen.size() && run_.seen[run_.complete] >= run_.clients) {
            ++run_.complete;
        }
        if (n == sent_) {
            run_.served.add((now_ - run_.began) / 1000);
        }
        ++run_.delivered;
        run_.bytes += text.size();
        run_.last_at = now_;
        const auto stamp = static_cast<std::int64_t>(number(text, kStamp, stamp_at_));
        run_.latency.add((now_ - stamp) / 1000);
    }

    void hear_epoch(std::string_view text) {
        const std::size_t at = text.find(kEpoch);
        if (cursor_.epoch.empty() && at != std::string_view::npos) {
            const std::string_view rest = text.substr(at + kEpoch.size());
            cursor_.epoch = rest.substr(0, rest.find('"'));
        }
    }

    // Feeding -----------------------------------------------------------------------------------
    void run_feed(double seconds, double rate, std::uint64_t burst) {
        run_ = Run();
        run_.first = sent_;
        run_.clients = connected_;
        run_.closed_loop = rate <= 0;
        run_.burst = std::max<std::uint64_t>(burst, 1);
        run_.began = run_.last_at = run_.due = now_ns();
        run_.until = run_.began + static_cast<std::int64_t>(seconds * 1e9);
        run_.every =
            rate > 0 ? static_cast<std::int64_t>(1e9 * static_cast<double>(run_.burst) / rate) : 0;
        watch(options_.feed_fd, kFeed, EPOLL_CTL_ADD, EPOLLIN);
        while (true) {
            const std::int64_t now = now_ns();
            const bool feeding = (run_.closed_loop ? now : run_.due) < run_.until;
            if (feeding) {
                feed_what_is_due(now);
            } else if (run_.complete == run_.seen.size()) {
                break;
            }
            if (now - std::max(run_.last_at, run_.began) > options_.quiet + run_.every) {
                break;
            }
            const std::int64_t next =
                feeding && !run_.closed_loop ? run_.due - now_ns() : kSecondNs / 100;
            step(std::clamp<std::int64_t>(next, 0, kSecondNs / 100));
        }
        epoll_ctl(epoll_, EPOLL_CTL_DEL, options_.feed_fd, nullptr);
        tell_run();
    }

    void feed_what_is_due(std::int64_t now) {
        if (run_.closed_loop) {
            while (run_.seen.size() - run_.complete < run_.burst) {
                add_event(now);
            }
        } else {
            for (; run_.due <= now && run_.due < run_.until; run_.due += run_.every) {
                run_.late.add((now - run_.due) / 1000);
                for (std::uint64_t i = 0; i < run_.burst; ++i) {
                    add_event(run_.due);
                }
            }
        }
        send_feed();
    }

    void add_event(std::int64_t stamp) {
        run_.seen.push_back(0);
        unsent_ += event_text(options_, ++sent_, stamp);
        if (unsent_.size() > kFeedBytesMax) {
            die("the feed takes no more events: " + std::to_string(unsent_.size()) +
                " bytes are unsent");
        }
    }

    void send_feed() {
        if (unsent_.empty()) {
            return;
        }
        const ssize_t put = write(options_.feed_fd, unsent_.data(), unsent_.size());
        if (put < 0 && errno != EAGAIN) {
            die(std::string("the feed has ended: ") + std::strerror(errno));
        }
        unsent_.erase(0, put < 0 ? 0 : static_cast<std::size_t>(put));
        if (!unsent_.empty() || feed_waits_) {
            feed_waits_ = !unsent_.empty();
            watch(options_.feed_fd, kFeed, EPOLL_CTL_MOD,
                  feed_waits_ ? EPOLLIN | EPOLLOUT : EPOLLIN);
        }
    }

    /// Answers are read and dropped: what counts is what comes to the clients.
    void feed_ready() {
        send_feed();
        const ssize_t got = recv(options_.feed_fd, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != ENOTSOCK)) {
            die("the server has closed the feed");
        }
    }

    void tell_run() {
        std::ostringstream out;
        out << R"({"event":"run","events":)" << run_.seen.size() << R"(,"clients":)" << connected_
            << R"(,"expected":)" << run_.seen.size() * run_.clients << R"(,"delivered":)"
            << run_.delivered << R"(,"gaps":)" << run_.gaps << R"(,"closed":)" << closed_
            << R"(,"seconds":)" << static_cast<double>(run_.last_at - run_.began) / 1e9
            << R"(,"bytes":)" << run_.bytes << R"(,"latency_ms":{)" << run_.latency.members()
            << R"(},"late_ms":{)" << run_.late.members() << R"(},"answered_ms":{)"
            << run_.answered.members() << R"(},"served_ms":{)" << run_.served.members() << "}}";
        say(out.str());
    }

    static constexpr std::uint64_t kStdin = ~std::uint64_t{0};
    static constexpr std::uint64_t kFeed = kStdin - 1;

    Options options_;
    int epoll_ = epoll_create1(0);
    std::vector<Client> clients_;
    std::string commands_;
    bool ended_ = false;
    std::size_t connected_ = 0;
    std::size_t failed_ = 0;
    std::size_t closed_ = 0;
    std::int64_t now_ = 0;
    std::uint64_t sent_ = 0;
    std::uint64_t newest_ = 0;      // Event that anyone has heard.
    Cursor cursor_;                 // Of it.
    std::optional<Cursor> resume_;  // While they come back.
    std::string unsent_;
    bool feed_waits_ = false;
    Run run_;
    std::size_t number_at_ = 0;
    std::size_t stamp_at_ = 0;
    std::size_t pos_at_ = 0;
    std::vector<char> buffer_ = std::vector<char>(kReadBytes);
};

template <typename Value, std::size_t kCount>
Value choice(const std::string& name, const std::string& given,
             const std::array<std::pair<std::string_view, Value>, kCount>& known) {
    for (const auto& [text, value] : known) {
        if (text == given) {
            return value;
        }
    }
    die(name + " cannot be " + given);
}

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string name = argv[i];
        const std::string value = argv[i + 1];
        if (name == "--port") {
            options.port = static_cast<std::uint16_t>(std::stoul(value));
        } else if (name == "--clients") {
            options.clients = std::stoul(value);
        } else if (name == "--speak") {
            options.speak = choice<Speak, 4>(name, value,
                                             {{{"raw", Speak::kRaw},
                                               {"v1", Speak::kV1},
                                               {"nats", Speak::kNats},
                                               {"mqtt", Speak::kMqtt}}});
        } else if (name == "--path") {
            options.path = value;
        } else if (name == "--topic") {
            options.topic = value;
        } else if (name == "--topics") {
            options.topics = std::stoull(value);
        } else if (name == "--subscribe") {
            options.subscribe = value != "0";
        } else if (name == "--feed-fd") {
            options.feed_fd = std::stoi(value);
        } else if (name == "--feed") {
            options.feed = choice<Feed, 5>(name, value,
                                           {{{"lines", Feed::kLines},
                                             {"publish", Feed::kPublish},
                                             {"post", Feed::kPost},
                                             {"nats", Feed::kNats},
                                             {"mqtt", Feed::kMqtt}}});
        } else if (name == "--feed-path") {
            options.feed_path = value;
        } else if (name == "--quiet") {
            options.quiet = std::stoll(value) * kSecondNs;
        } else if (name == "--bytes") {
            options.bytes = std::stoul(value);
        } else {
            die("unknown option " + name);
        }
    }
    if (argc % 2 == 0 || options.port == 0 || options.clients == 0) {
        die("each option takes a value, and --port is needed");
    }
    return options;
}

}  // namespace
}  // namespace sigmacast::bench

int main(int argc, char** argv) {
    using namespace sigmacast::bench;
    try {
        std::signal(SIGPIPE, SIG_IGN);
        const Options options = parse(argc, argv);
        raise_descriptor_limit();
        Fanout(options).run();
    } catch (const std::exception& problem) {
        die(problem.what());
    }
}
