// Many WebSocket clients in one process: sigmacast-bench-load --port P --clients N [OPTION VALUE
// ...]
//
//   --mixed 1    of four clients two are v1 sessions that answer control pings and send pings of
//                their own, one is a v1 session that never does, one is a plain session that only
//                listens, as the clients of the original hub do. Default: v1, answering.
//   --topics A,B what plain sessions subscribe to, beside their defaults
//   --every S    prints a line of JSON each S seconds: what came in them. Default 0: none.
//   --churn R    after `start`, R clients of the second half leave each second, and others come.
//   --slack-ms T by how much a value may seem younger than its stamp (250): as_of is when the
//                producer had the answer, the stamp when the engine began to write it
//   --fault F    drop, repeat, younger, deaf or quit: a client that fails so, for tests of what
//                judges it.
//
// It is told what to do on standard input, and answers each line with one of JSON on standard
// output:
//
//   connect            all connect and subscribe to every topic
//   start              counting begins: who feeds the edge begins after that
//   wait TOPIC=N ...   until each client has N of each topic, or for a minute
//   settle             the feed is about to stop: answers will repeat, so that a value may well be
//                      younger than its stamp
//   check TOPIC=N ...  until each client has the newest of them, or nothing more comes: N was the
//                      last `n` of the topic's data. Clients that were there from the start must
//                      have got each of them once. Names what is missing.
//   leave              all close, some politely
//   result             what was counted
//
// Held of each client: positions (no hole, no repetition, no step back), the age that a value is
// said to have against the engine's own stamp in it (`t_ms`, wall clock; `t_ns`, monotonic, for the
// latency), the longest silence, control pings. What is wrong is counted, and the first told.
//
// One thread, epoll, raw sockets, as little work a frame as can be: it shares the machine with what
// it measures. It is no test of the protocol; tests/integration is.
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
#include <chrono>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tests/bench/measuring.h"

namespace sigmacast::bench {
namespace {

constexpr std::size_t kReadBytes = 256u << 10;
constexpr std::size_t kFrameBytesMax = 16u << 20;
constexpr std::size_t kConnectingMax = 128;  // Unanswered handshakes at one time.
constexpr std::size_t kStreamsMax = 256;     // Of (topic, origin).
constexpr std::size_t kProblemsMax = 20;     // Told; more are counted.
constexpr std::int64_t kConnectNs = 60 * kSecondNs;
constexpr std::int64_t kWaitNs = 60 * kSecondNs;
constexpr std::int64_t kQuietNs = 5 * kSecondNs;  // What has not come by then, does not.
constexpr std::int64_t kLeaveNs = 5 * kSecondNs;
constexpr std::int64_t kAskNs = 10 * kSecondNs;  // From ping to ping of a client that sends them.
constexpr std::uint64_t kFaultEvery = 37;  // A prime, so that it is not always the same client.

struct Options {
    std::uint16_t port = 12080;
    std::size_t clients = 1000;
    bool mixed = false;
    double every = 0;
    double churn = 0;
    std::int64_t slack_ms = 250;
    std::string topics;
    std::string fault;
};

[[noreturn]] void die(const std::string& what) {
    std::fprintf(stderr, "sigmacast-bench-load: %s\n", what.c_str());
    std::exit(1);
}

[[gnu::format(printf, 1, 2)]] std::string text(const char* format, ...) {
    std::array<char, 2048> out{};
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(out.data(), out.size(), format, arguments);
    va_end(arguments);
    return out.data();
}

using ull = unsigned long long;

// --------------------------------------------------------------------------------------------------
// messages

std::uint64_t number_after(std::string_view json, std::string_view name) {
    const std::size_t at = json.find(name);
    std::uint64_t number = 0;
    if (at != std::string_view::npos) {
        std::from_chars(json.data() + at + name.size(), json.data() + json.size(), number);
    }
    return number;
}

/// The text after `name`, up to a quote. What is looked for here has no escapes.
std::string_view text_after(std::string_view json, std::string_view name) {
    const std::size_t at = json.find(name);
    if (at == std::string_view::npos) {
        return {};
    }
    json.remove_prefix(at + name.size());
    return json.substr(0, json.find('"'));
}

/// 2026-11-21T03:32:01.934Z as milliseconds since 1970; 0 for anything else.
std::int64_t wall_ms(std::string_view time) {
    if (time.size() != 24 || time.back() != 'Z') {
        return 0;
    }
    const auto digits = [&](std::size_t from, std::size_t count) {
        int number = 0;
        std::from_chars(time.data() + from, time.data() + from + count, number);
        return number;
    };
    namespace chrono = std::chrono;
    const chrono::sys_days day = chrono::year(digits(0, 4)) /
                                 chrono::month(static_cast<unsigned>(digits(5, 2))) /
                                 chrono::day(static_cast<unsigned>(digits(8, 2)));
    const std::int64_t seconds = std::int64_t{day.time_since_epoch().count()} * 86'400 +
                                 digits(11, 2) * 3600 + digits(14, 2) * 60 + digits(17, 2);
    return seconds * 1000 + digits(20, 3);
}

enum class Kind { kValue, kTransition, kSkipped, kSubscribed, kTick, kPong, kError, kOther };

struct Message {
    Kind kind = Kind::kOther;
    std::size_t stream = 0;         // kValue, kTransition, kSkipped.
    std::size_t stream_of_key = 0;  // What a plain session sees positions of: copies, key by key.
    bool replay = false;
    bool unasked = false;
    std::uint64_t seq = 0;
    std::uint64_t pos = 0;
    std::uint64_t from = 0;  // kSkipped.
    std::uint64_t to = 0;
    std::uint64_t n = 0;  // Of the data, where it has one.
    std::int64_t t_ns = 0;
    bool has_age = false;         // And a stamp of the engine's to hold it against:
    std::int64_t younger_ms = 0;  // by how much it claims to be younger than that.
};

/// Understands as much of a message as is checked here. Most messages come to many clients in the
/// same bytes, so that the last one is remembered.
class Reader {
 public:
    const Message& read(std::string_view json) {
        if (json != last_) {
            last_.assign(json);
            message_ = parse(json);
        }
        return message_;
    }

    /// The streams of a topic that have been seen.
    [[nodiscard]] std::vector<std::size_t> streams_of(const std::string& topic) const {
        std::vector<std::size_t> found;
        for (const auto& [name, index] : streams_) {
            if (name.starts_with(topic + " of ")) {
                found.push_back(index);
            }
        }
        return found;
    }
    [[nodiscard]] std::string name_of(std::size_t stream) const {
        for (const auto& [name, index] : streams_) {
            if (index == stream) {
                return name;
            }
        }
        return "?";
    }

 private:
    Message parse(std::string_view json) {
        Message message;
        const std::string_view type = text_after(json, "{\"type\":\"");
        const std::size_t end = json.rfind("},\"origin\":\"");
        if (end == std::string_view::npos) {  // The edge's own.
            message.kind = type == "subscribed" ? Kind::kSubscribed
                           : type == "pong"     ? Kind::kPong
                           : type == "error"    ? Kind::kError
                                                : Kind::kOther;
            message.unasked = json.rfind(",\"id\":") == std::string_view::npos;
            return message;
        }
        const std::string_view data = json.substr(0, end);
        const std::string_view tail = json.substr(end);
        const std::string_view origin = text_after(tail, "\"origin\":\"");
        message.seq = number_after(tail, "\"seq\":");
        message.pos = number_after(tail, "\"pos\":");
        message.replay = tail.find("\"replay\":true") != std::string_view::npos;
        if (type == "tick") {
            message.kind = Kind::kTick;
        } else if (type == "transition" || type == "skipped") {
            message.kind = type == "skipped" ? Kind::kSkipped : Kind::kTransition;
            message.stream = stream(text_after(data, "\"topic\":\""), origin);
            message.from = number_after(data, "\"from\":");
            message.to = number_after(data, "\"to\":");
        } else {
            message.kind = Kind::kValue;
            const std::string_view key = text_after(tail, "\"key\":\"");
            message.stream = stream(type, origin);
            message.stream_of_key = key.empty() ? message.stream : stream(type, origin, key);
            message.n = number_after(data, "\"n\":");
            message.t_ns = static_cast<std::int64_t>(number_after(data, "\"t_ns\":"));
            note_age(data, tail, message);
        }
        return message;
    }

    /// Both ways of saying it count: as_of, and age_ms at `timestamp`.
    static void note_age(std::string_view data, std::string_view tail, Message& message) {
        const auto stamp = static_cast<std::int64_t>(number_after(data, "\"t_ms\":"));
        const std::int64_t as_of = wall_ms(text_after(tail, "\"as_of\":\""));
        const std::int64_t made = wall_ms(text_after(data, "\"timestamp\":\""));
        const auto age = static_cast<std::int64_t>(number_after(tail, "\"age_ms\":"));
        message.has_age = stamp != 0 && as_of != 0;
        message.younger_ms = std::max(as_of - stamp, made - age - stamp);
    }

    std::size_t stream(std::string_view topic, std::string_view origin, std::string_view key = {}) {
        const std::string name = std::string(topic) + " of " + std::string(origin) +
                                 (key.empty() ? "" : ", key " + std::string(key));
        const auto [it, is_new] = streams_.try_emplace(name, streams_.size());
        if (is_new && streams_.size() > kStreamsMax) {
            die("more than " + std::to_string(kStreamsMax) + " streams");
        }
        return it->second;
    }

    std::unordered_map<std::string, std::size_t> streams_;
    std::string last_;
    Message message_;
};

// --------------------------------------------------------------------------------------------------
// figures

std::string json(const Histogram& times) {
    return text(R"({"samples":%llu,%s})", ull{times.count()}, times.members().c_str());
}

struct Counts {
    std::uint64_t tried = 0;
    std::uint64_t connected = 0;
    std::uint64_t failed = 0;  // Connections that did not come to a session.
    std::uint64_t closed = 0;  // Sessions that the edge ended.
    std::uint64_t messages = 0;
    std::uint64_t bytes = 0;
    std::uint64_t deliveries = 0;  // Live values and events, since `start`.
    std::uint64_t holes = 0;
    std::uint64_t repeated = 0;
    std::uint64_t back = 0;
    std::uint64_t skipped = 0;
    std::uint64_t younger = 0;
    std::uint64_t resubscribed = 0;  // The edge's own copy started anew.
    std::uint64_t errors = 0;
    std::uint64_t pings = 0;  // Control pings of the edge.
    std::uint64_t pongs = 0;
    std::uint64_t asked = 0;  // Our own pings, and their answers.
    std::uint64_t answered = 0;
    std::int64_t younger_ms_max = -1'000'000;
    std::int64_t silence_ns_max = 0;
    std::int64_t first_ns = 0;
    std::int64_t last_ns = 0;
};

// --------------------------------------------------------------------------------------------------
// clients

struct Seen {
    std::uint64_t seq = 0;
    std::uint64_t n = 0;
    std::uint64_t live = 0;  // Since `start`.
};

struct Client {
    int fd = -1;
    bool v1 = true;
    bool answers = true;  // Control pings, and sends pings of its own.
    bool upgraded = false;
    bool subscribed = false;
    bool leaving = false;
    bool original = true;  // There since `start`.
    std::string pending;   // What has come of an unfinished frame or handshake.
    std::uint64_t pos = 0;
    std::uint64_t pings = 0;
    std::int64_t last_at = 0;
    std::vector<Seen> seen;  // By stream.
};

class Load {
 public:
    explicit Load(Options options)
        : options_(std::move(options)),
          plain_subscribe_(plain_subscribe(options_.topics)),
          epoll_(epoll_create1(EPOLL_CLOEXEC)),
          clients_(options_.clients) {
        if (epoll_ < 0) {
            die(std::string("epoll_create1: ") + std::strerror(errno));
        }
        for (std::size_t i = 0; i < clients_.size(); ++i) {
            clients_[i].v1 = !options_.mixed || i % 4 != 3;
            clients_[i].answers = !options_.mixed || i % 4 < 2;
        }
        fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
        watch(STDIN_FILENO, kStdin);
    }

    /// Until the end of standard input, which ends the process.
    void run() {
        interval_from_ = now_ns();
        for (;;) {
            poll(commands_.empty() ? 50 : 0);
            if (const std::size_t end = commands_.find('\n'); end != std::string::npos) {
                const std::string line = commands_.substr(0, end);
                commands_.erase(0, end + 1);
                obey(line);
            }
        }
    }

 private:
    // Commands ----------------------------------------------------------------------------------
    void obey(const std::string& line) {
        const std::string command = line.substr(0, line.find(' '));
        const auto wanted = parse_wanted(line);
        if (command == "connect") {
            connect_all();
        } else if (command == "start") {
            start();
        } else if (command == "wait") {
            wait_for(wanted);
        } else if (command == "settle") {
            checks_age_ = false;
            say(R"({"event":"settled"})");
        } else if (command == "check") {
            check(wanted);
        } else if (command == "leave") {
            leave();
        } else if (command == "result") {
            say(result("result"));
        } else {
            die("unknown command: " + line);
        }
    }

    using Wanted = std::vector<std::pair<std::string, std::uint64_t>>;
    static Wanted parse_wanted(const std::string& line) {
        Wanted wanted;
        for (std::size_t at = line.find(' '); at != std::string::npos;
             at = line.find(' ', at + 1)) {
            const std::string word = line.substr(at + 1, line.find(' ', at + 1) - at - 1);
            const std::size_t equals = word.find('=');
            if (equals == std::string::npos) {
                die("not TOPIC=N: " + word);
            }
            wanted.emplace_back(word.substr(0, equals), std::stoull(word.substr(equals + 1)));
        }
        return wanted;
    }

    void connect_all() {
        const std::int64_t began = now_ns();
        std::size_t next = 0;
        while ((next < clients_.size() || handshaking_ > 0) && now_ns() - began < kConnectNs) {
            while (next < clients_.size() && handshaking_ < kConnectingMax) {
                open(next++);
            }
            poll(100);
        }
        for (Client& client : clients_) {
            if (client.fd >= 0 && !client.subscribed) {
                problem("client " + name(client) + " had no session within a minute");
                lost(client);
            }
        }
        say(text(R"({"event":"connected","clients":%zu,"failed":%llu,"seconds":%.3f})", open_,
                 ull{counts_.failed}, static_cast<double>(now_ns() - began) / 1e9));
    }

    void start() {
        started_ = checks_age_ = true;
        for (Client& client : clients_) {
            client.last_at = now_ns();
            for (Seen& seen : client.seen) {
                seen.live = 0;
            }
        }
        churning_ = options_.churn > 0;
        next_churn_ = next_ask_ = now_ns();
        say(R"({"event":"started"})");
    }

    void wait_for(const Wanted& wanted) {
        const std::int64_t end = now_ns() + kWaitNs;
        while (now_ns() < end && count_incomplete(resolve(wanted)) > 0) {
            poll(50);
        }
        say(result("waited"));
    }

    void check(const Wanted& wanted) {
        churning_ = false;
        const std::int64_t began = now_ns();
        while (now_ns() - std::max(began, stamped_at_) < kQuietNs &&
               (count_behind(resolve(wanted), false) > 0 || counts_.answered < counts_.asked)) {
            poll(50);
        }
        for (const Client& client : clients_) {
            note_silence(client, now_ns());
        }
        std::uint64_t offered = 0;
        std::uint64_t received = 0;
        const Targets targets = resolve(wanted);
        for (const Client& client : clients_) {
            for (const Target& target : targets) {
                offered += client.original ? target.n : 0;
                received += client.original ? std::min(total(client, target).live, target.n) : 0;
            }
        }
        say(text(R"({"event":"checked","behind":%zu,"offered":%llu,"received":%llu})",
                 count_behind(targets, true), ull{offered}, ull{received}));
    }

    /// What was sent of a topic, and where it is counted.
    struct Target {
        std::string topic;
        std::uint64_t n = 0;
        std::vector<std::size_t> streams;
    };
    using Targets = std::vector<Target>;

    /// A stream is known by its first message only.
    [[nodiscard]] Targets resolve(const Wanted& wanted) const {
        Targets targets;
        for (const auto& [topic, n] : wanted) {
            targets.push_back({topic, n, reader_.streams_of(topic)});
        }
        return targets;
    }

    static Seen total(const Client& client, const Target& target) {
        Seen sum;
        for (const std::size_t stream : target.streams) {
            if (stream < client.seen.size()) {
                sum.n = std::max(sum.n, client.seen[stream].n);
                sum.live += client.seen[stream].live;
            }
        }
        return sum;
    }

    [[nodiscard]] std::size_t count_incomplete(const Targets& targets) const {
        return static_cast<std::size_t>(
            std::count_if(clients_.begin(), clients_.end(), [&](const Client& client) {
                return std::any_of(targets.begin(), targets.end(), [&](const Target& target) {
                    return total(client, target).live < target.n;
                });
            }));
    }

    /// A client that came later has the newest value from its snapshot, but no events from before.
    std::size_t count_behind(const Targets& targets, bool tell) {
        std::size_t behind = 0;
        for (const Client& client : clients_) {
            for (const Target& target : targets) {
                const Seen seen = total(client, target);
                const bool came_later = !client.original && target.topic.ends_with(".event");
                const bool each_once = client.original && client.v1;
                if ((seen.n != target.n && !came_later) || (each_once && seen.live != target.n)) {
                    ++behind;
                    if (tell) {
                        problem("client " + name(client) + ": " + target.topic + " ended with " +
                                std::to_string(seen.n) + " after " + std::to_string(seen.live) +
                                " messages; sent were " + std::to_string(target.n));
                    }
                    break;
                }
            }
        }
        return behind;
    }

    void leave() {
        churning_ = started_ = false;
        const std::int64_t end = now_ns() + kLeaveNs;
        for (std::size_t i = 0; i < clients_.size(); ++i) {
            hang_up(clients_[i], i);
        }
        while (open_ > 0 && now_ns() < end) {
            poll(50);
        }
        const std::size_t late = open_;
        for (Client& client : clients_) {
            if (client.fd >= 0) {
                gone(client);
            }
        }
        say(text(R"({"event":"left","late":%zu})", late));
    }

    static std::string plain_subscribe(std::string names) {
        for (std::size_t at = 0; (at = names.find(',', at)) != std::string::npos; at += 3) {
            names.replace(at, 1, "\",\"");
        }
        return R"({"type":"subscribe","types":[")" + names + "\"]}";
    }

    // Connections -------------------------------------------------------------------------------
    void watch(int fd, std::uint64_t index) const {
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.u64 = index;
        if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) {
            die(std::string("epoll_ctl: ") + std::strerror(errno));
        }
    }

    void open(std::size_t index) {
        Client& client = clients_[index];
        Client fresh;
        fresh.v1 = client.v1;
        fresh.answers = client.answers;
        fresh.original = !started_ && counts_.tried < clients_.size();
        fresh.last_at = now_ns();
        client = std::move(fresh);
        ++counts_.tried;
        const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(options_.port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (fd < 0 ||
            connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
            problem("client " + std::to_string(index) + " cannot connect: " + std::strerror(errno));
            ++counts_.failed;
            if (fd >= 0) {
                close(fd);
            }
            return;
        }
        client.fd = fd;
        ++open_;
        ++handshaking_;
        const int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(fd, index);
        send_text(client,
                  std::string("GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
                              "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                              "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n") +
                      (client.v1 ? "Sec-WebSocket-Protocol: sigmacast.v1.json\r\n\r\n" : "\r\n"));
    }

    void send_text(Client& client, std::string_view bytes) {
        if (send(client.fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT) !=
            static_cast<ssize_t>(bytes.size())) {
            shutdown(client.fd, SHUT_RDWR);  // The next read finds the end.
        }
    }

    /// A masked frame; a mask of zeros is as good as any here (RFC 6455 5.3 wants it unpredictable
    /// for browsers).
    void send_frame(Client& client, unsigned char opcode, std::string_view payload) {
        std::string out;
        out += static_cast<char>(0x80u | opcode);
        if (payload.size() < 126) {
            out += static_cast<char>(0x80u | payload.size());
        } else {
            out += static_cast<char>(0x80u | 126u);
            out += static_cast<char>(payload.size() >> 8);
            out += static_cast<char>(payload.size() & 0xffu);
        }
        out.append(4, '\0');
        out += payload;
        send_text(client, out);
    }

    /// Three ways to go, in turn: with a close frame, by hanging up, by a reset.
    void hang_up(Client& client, std::size_t way) {
        if (client.fd < 0 || client.leaving || !client.subscribed) {
            return;
        }
        client.leaving = true;
        if (way % 3 == 0) {
            send_frame(client, 8, std::string_view("\x03\xe8", 2));
        } else if (way % 3 == 1) {
            shutdown(client.fd, SHUT_WR);
        } else {
            const linger at_once{.l_onoff = 1, .l_linger = 0};
            setsockopt(client.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
            gone(client);
        }
    }

    /// The connection is over, whoever ended it.
    void lost(Client& client) {
        if (!client.leaving) {
            const char* what = client.subscribed ? " was closed by the edge" : " was turned away";
            problem("client " + name(client) + what);
            ++(client.subscribed ? counts_.closed : counts_.failed);
        }
        gone(client);
    }

    void gone(Client& client) {
        close(client.fd);  // Which takes it out of the epoll set.
        client.fd = -1;
        --open_;
        handshaking_ -= client.subscribed ? 0u : 1u;
        if (started_ && client.leaving) {
            to_open_.push_back(static_cast<std::size_t>(&client - clients_.data()));
        }
    }

    // The loop ----------------------------------------------------------------------------------
    void poll(int timeout_ms) {
        std::array<epoll_event, 256> events{};
        const int count =
            epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), timeout_ms);
        for (int i = 0; i < count; ++i) {
            const std::uint64_t index = events[static_cast<std::size_t>(i)].data.u64;
            if (index == kStdin) {
                read_commands();
            } else if (clients_[index].fd >= 0) {
                read(clients_[index]);
            }
        }
        const std::int64_t now = now_ns();
        churn(now);
        ask(now);
        if (options_.every > 0 &&
            now - interval_from_ >= static_cast<std::int64_t>(options_.every * 1e9)) {
            say(interval(now));
        }
    }

    void read_commands() {
        std::array<char, 4096> bytes{};
        const ssize_t got = ::read(STDIN_FILENO, bytes.data(), bytes.size());
        if (got > 0) {
            commands_.append(bytes.data(), static_cast<std::size_t>(got));
        } else if (got == 0) {
            std::exit(0);  // Whoever started this is gone.
        }
    }

    void churn(std::int64_t now) {
        for (; churning_ && now >= next_churn_;
             next_churn_ += static_cast<std::int64_t>(1e9 / options_.churn)) {
            const std::size_t first = clients_.size() / 2;
            hang_up(clients_[first + churned_ % (clients_.size() - first)], churned_);
            ++churned_;
        }
        for (const std::size_t index : std::exchange(to_open_, {})) {
            open(index);
        }
    }

    /// Each client that answers pings sends one of its own every kAskNs, all at different times.
    void ask(std::int64_t now) {
        if (!checks_age_ || !options_.mixed) {
            return;
        }
        for (; now >= next_ask_; next_ask_ += kAskNs / static_cast<std::int64_t>(clients_.size())) {
            Client& client = clients_[asking_++ % clients_.size()];
            const bool stays = asking_ % clients_.size() <= clients_.size() / 2;
            if (client.answers && stays && client.subscribed && client.fd >= 0) {
                ++counts_.asked;
                send_frame(client, 1, R"({"type":"ping","id":1})");
            }
        }
    }

    void read(Client& client) {
        if (options_.fault == "deaf" && started_ && &client == clients_.data()) {
            epoll_ctl(epoll_, EPOLL_CTL_DEL, client.fd, nullptr);
            return;
        }
        const ssize_t got = recv(client.fd, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
        if (got <= 0) {
            if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
                lost(client);
            }
            return;
        }
        const std::int64_t at = now_ns();
        note_silence(client, at);
        client.last_at = at;
        const std::string_view bytes(buffer_.data(), static_cast<std::size_t>(got));
        if (client.pending.empty()) {
            client.pending = take(client, bytes, at);
        } else {
            client.pending += bytes;
            client.pending = take(client, client.pending, at);
        }
    }

    void note_silence(const Client& client, std::int64_t at) {
        if (started_ && client.subscribed && !client.leaving) {
            counts_.silence_ns_max = std::max(counts_.silence_ns_max, at - client.last_at);
        }
    }

    /// Consumes whole frames; returns what is left.
    std::string take(Client& client, std::string_view bytes, std::int64_t at) {
        if (!client.upgraded) {
            const std::size_t end = bytes.find("\r\n\r\n");
            if (end == std::string_view::npos) {
                return std::string(bytes);
            }
            if (bytes.find(" 101 ") > 16) {
                problem("the edge refused: " + std::string(bytes.substr(0, bytes.find('\r'))));
                shutdown(client.fd, SHUT_RDWR);
                return {};
            }
            client.upgraded = true;
            bytes.remove_prefix(end + 4);
            send_frame(client, 1, client.v1 ? kSubscribeAll : plain_subscribe_);
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
            if (size > kFrameBytesMax) {
                die("a frame of " + std::to_string(size) + " bytes");
            }
            if (bytes.size() < head + size) {
                break;
            }
            on_frame(client, byte(0) & 0x0fu, bytes.substr(head, size), at);
            bytes.remove_prefix(head + size);
        }
        return std::string(bytes);
    }

    // What came ---------------------------------------------------------------------------------
    void on_frame(Client& client, unsigned opcode, std::string_view payload, std::int64_t at) {
        if (opcode == 9) {
            ++counts_.pings;
            ++client.pings;
            if (client.answers) {
                ++counts_.pongs;
                send_frame(client, 10, payload);
            }
        } else if (opcode == 1 && !client.leaving) {
            ++counts_.messages;
            counts_.bytes += payload.size();
            on_message(client, reader_.read(payload), at);
        }
    }

    void on_message(Client& client, const Message& message, std::int64_t at) {
        if (!client.subscribed && (message.kind == Kind::kSubscribed || !client.v1)) {
            client.subscribed = true;
            ++counts_.connected;
            --handshaking_;
        } else if (message.kind == Kind::kSubscribed) {
            ++counts_.resubscribed;
            for (Seen& seen : client.seen) {
                seen.seq = 0;  // The next position may be any.
            }
        }
        counts_.answered += message.kind == Kind::kPong ? 1u : 0u;
        counts_.errors += message.kind == Kind::kError ? 1u : 0u;
        if (message.kind == Kind::kValue || message.kind == Kind::kTransition ||
            message.kind == Kind::kSkipped) {
            const std::size_t needed = std::max(message.stream, message.stream_of_key) + 1;
            client.seen.resize(std::max(client.seen.size(), needed));
            on_position(client, message, at);
        }
    }

    void on_position(Client& client, const Message& message, std::int64_t at) {
        Seen& seen = client.seen[client.v1 ? message.stream : message.stream_of_key];
        // A plain session is not told what is its first state, and what is new.
        const bool snapshot = message.replay || (!client.v1 && message.has_age && seen.seq == 0);
        const bool live = message.kind == Kind::kValue && !snapshot && started_;
        if (live && options_.fault == "drop" && ++faults_ % kFaultEvery == 0) {
            return;
        }
        if (live && options_.fault == "quit" && ++faults_ == kFaultEvery) {
            shutdown(client.fd, SHUT_RDWR);
        }
        check_position(client, seen, message);
        if (live && options_.fault == "repeat" && ++faults_ % kFaultEvery == 0) {
            check_position(client, seen, message);
        }
        if (message.kind == Kind::kValue) {
            check_age(client, message);
        }
        const bool again =
            live && message.n != 0 && message.n == seen.n;  // A plain session's copy.
        if (message.n != 0) {
            seen.n = message.n;
        }
        if (live && !again) {
            ++seen.live;
            counts_.first_ns = counts_.deliveries++ == 0 ? at : counts_.first_ns;
            counts_.last_ns = at;
            stamped_at_ = message.n != 0 ? at : stamped_at_;
            ++interval_deliveries_;
            if (message.t_ns != 0 && checks_age_) {
                latency_.add((at - message.t_ns) / 1000);
                interval_latency_.add((at - message.t_ns) / 1000);
            }
        }
    }

    void check_position(Client& client, Seen& seen, const Message& message) {
        if (message.kind == Kind::kSkipped) {
            counts_.skipped += message.to - message.from + 1;
            problem("client " + name(client) + ": " + reader_.name_of(message.stream) +
                    " skipped " + std::to_string(message.from) + " to " +
                    std::to_string(message.to));
            seen.seq = message.to;
            return;
        }
        if (message.replay || message.seq == 0) {
            seen.seq = 0;  // What the snapshot holds stands for all before it.
            return;
        }
        if (!client.v1) {  // A plain session is sent copies, and no transitions.
            note_if(message.seq < seen.seq, counts_.back, "went back", client, seen, message);
        } else if (seen.seq != 0 && message.seq != seen.seq + 1) {
            note_if(message.seq > seen.seq, counts_.holes, "has a hole", client, seen, message);
            note_if(message.seq == seen.seq, counts_.repeated, "is repeated", client, seen,
                    message);
            note_if(message.seq < seen.seq, counts_.back, "went back", client, seen, message);
        } else {
            note_if(message.pos != 0 && message.pos <= client.pos, counts_.back,
                    "went back in the log", client, seen, message);
        }
        client.pos = std::max(client.pos, message.pos);
        seen.seq = message.seq;
    }

    void note_if(bool wrong, std::uint64_t& count, const char* what, const Client& client,
                 const Seen& seen, const Message& message) {
        if (wrong) {
            ++count;
            problem("client " + name(client) + ": " + reader_.name_of(message.stream) + " " + what +
                    ": " + std::to_string(message.seq) + " after " + std::to_string(seen.seq));
        }
    }

    void check_age(const Client& client, const Message& message) {
        if (!checks_age_ || !message.has_age) {
            return;
        }
        const std::int64_t fault = options_.fault == "younger" ? 2000 : 0;
        const std::int64_t younger = message.younger_ms + fault;
        counts_.younger_ms_max = std::max(counts_.younger_ms_max, younger);
        if (younger > options_.slack_ms) {
            ++counts_.younger;
            problem("client " + name(client) + ": " + reader_.name_of(message.stream) + " " +
                    std::to_string(message.seq) + " claims to be " + std::to_string(younger) +
                    " ms younger than it is");
        }
    }

    // What is told ------------------------------------------------------------------------------
    [[nodiscard]] std::string name(const Client& client) const {
        return std::to_string(&client - clients_.data()) + (client.v1 ? "" : " (plain)");
    }

    void problem(std::string what) {
        if (problems_.size() < kProblemsMax) {
            std::replace(what.begin(), what.end(), '"', '\'');
            problems_.push_back(std::move(what));
        }
    }

    std::string interval(std::int64_t now) {
        std::string line = text(
            R"({"event":"interval","at_ns":%lld,"seconds":%.3f,"clients":%zu,"deliveries":%llu,"latency_ms":%s})",
            static_cast<long long>(now), static_cast<double>(now - interval_from_) / 1e9, open_,
            ull{interval_deliveries_}, json(interval_latency_).c_str());
        interval_from_ = now;
        interval_deliveries_ = 0;
        interval_latency_.clear();
        return line;
    }

    [[nodiscard]] std::string result(const char* event) const {
        std::uint64_t pings_min = ~std::uint64_t{0};  // Of those that were there all the time.
        for (const Client& client : clients_) {
            pings_min = client.original ? std::min(pings_min, client.pings) : pings_min;
        }
        std::string out = text(
            R"({"event":"%s","clients":%zu,"tried":%llu,"connected":%llu,"failed":%llu,"closed":%llu,)"
            R"("messages":%llu,"bytes":%llu,"deliveries":%llu,"seconds":%.4f,"holes":%llu,)"
            R"("repeated":%llu,"back":%llu,"skipped":%llu,"younger":%llu,"younger_ms_max":%lld,)"
            R"("resubscribed":%llu,"errors":%llu,"pings":%llu,"pings_min":%llu,"pongs":%llu,)"
            R"("asked":%llu,"answered":%llu,"silence_s_max":%.3f,"churned":%llu,"latency_ms":%s,)",
            event, open_, ull{counts_.tried}, ull{counts_.connected}, ull{counts_.failed},
            ull{counts_.closed}, ull{counts_.messages}, ull{counts_.bytes}, ull{counts_.deliveries},
            static_cast<double>(counts_.last_ns - counts_.first_ns) / 1e9, ull{counts_.holes},
            ull{counts_.repeated}, ull{counts_.back}, ull{counts_.skipped}, ull{counts_.younger},
            static_cast<long long>(counts_.younger_ms_max), ull{counts_.resubscribed},
            ull{counts_.errors}, ull{counts_.pings}, ull{pings_min}, ull{counts_.pongs},
            ull{counts_.asked}, ull{counts_.answered},
            static_cast<double>(counts_.silence_ns_max) / 1e9, ull{churned_},
            json(latency_).c_str());
        out += "\"problems\":[";
        for (const std::string& problem : problems_) {
            out += (&problem == problems_.data() ? "\"" : ",\"") + problem + "\"";
        }
        return out + "]}";
    }

    static constexpr std::uint64_t kStdin = ~std::uint64_t{0};
    static constexpr std::string_view kSubscribeAll =
        R"({"type":"subscribe","id":1,"data":{"types":["*"]}})";

    Options options_;
    std::string plain_subscribe_;
    int epoll_;
    std::vector<Client> clients_;
    Reader reader_;
    std::string commands_;
    bool started_ = false;
    bool churning_ = false;
    bool checks_age_ = false;
    std::size_t open_ = 0;
    std::size_t handshaking_ = 0;
    std::vector<std::size_t> to_open_;
    std::int64_t next_churn_ = 0;
    std::int64_t next_ask_ = 0;
    std::size_t asking_ = 0;
    std::size_t churned_ = 0;
    std::uint64_t faults_ = 0;
    std::int64_t stamped_at_ = 0;  // When the last one of the feed's came.
    Counts counts_;
    Histogram latency_;
    std::int64_t interval_from_ = 0;
    std::uint64_t interval_deliveries_ = 0;
    Histogram interval_latency_;
    std::vector<std::string> problems_;
    std::vector<char> buffer_ = std::vector<char>(kReadBytes);
};

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string name = argv[i];
        const std::string value = argv[i + 1];
        if (name == "--port") {
            options.port = static_cast<std::uint16_t>(std::stoul(value));
        } else if (name == "--clients") {
            options.clients = std::stoul(value);
        } else if (name == "--mixed") {
            options.mixed = value != "0";
        } else if (name == "--every") {
            options.every = std::stod(value);
        } else if (name == "--churn") {
            options.churn = std::stod(value);
        } else if (name == "--slack-ms") {
            options.slack_ms = std::stoll(value);
        } else if (name == "--topics") {
            options.topics = value;
        } else if (name == "--fault") {
            options.fault = value;
        } else {
            die("unknown option " + name);
        }
    }
    if (argc % 2 == 0 || options.clients == 0) {
        die("each option takes a value: --port --clients --mixed --topics --every --churn "
            "--slack-ms --fault");
    }
    return options;
}

}  // namespace
}  // namespace sigmacast::bench

int main(int argc, char** argv) {
    using namespace sigmacast::bench;
    try {
        const Options options = parse(argc, argv);
        raise_descriptor_limit();
        Load(options).run();
    } catch (const std::exception& problem) {
        die(problem.what());
    }
    return 0;
}
