#include <unistd.h>

#include <array>
#include <cctype>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include "common/bus.h"
#include "common/curve.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/origin.h"
#include "common/random.h"
#include "common/settings.h"
#include "common/state_file.h"
#include "ops/cli/commands.h"
#include "ops/cli/event_line.h"
#include "ops/cli/line_reader.h"
#include "ops/cli/output.h"

namespace sigmacast::cli {
namespace {

constexpr std::size_t kIngest = 0;  // Sockets of the bus node.
constexpr std::size_t kRepair = 1;
// Messages on their way that the broker has not confirmed: below the bus's high-water mark, above
// which it drops.
constexpr std::uint64_t kWindow = 8'192;
// The head that names what was pushed last: at once when the input pauses, so that a gap at its end
// is found.
constexpr Millis kHeadPause{20};
constexpr Millis kLockRetry{200};
constexpr int kBadLinesShown = 20;  // More are counted only.

std::string host_name() {
    std::array<char, 256> name{};
    return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "localhost";
}

/// A file name of its own for each origin.
std::string file_name(const std::string& origin) {
    std::string name;
    for (const char c : origin) {
        const bool plain = std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' ||
                           c == '@' || (c == '.' && !name.empty());
        static constexpr char kDigits[] = "0123456789abcdef";
        const auto byte = static_cast<unsigned char>(c);
        name +=
            plain ? std::string(1, c) : std::string{'%', kDigits[byte >> 4], kDigits[byte & 15]};
    }
    return name;
}

bool good_origin(const std::string& origin) {
    if (origin.empty() || origin.size() > 128) {
        return false;
    }
    for (const char c : origin) {
        if (static_cast<unsigned char>(c) <= 0x20 || c == 0x7F) {
            return false;
        }
    }
    return true;
}

/// One `sigmacast publish`, once its name is locked. Runs on: the loop.
class Publisher final : private Origin::Io {
 public:
    Publisher(const PublishCommand& command, const Settings& settings, bus::Curve curve,
              OriginOptions options, std::string epoch_file)
        : command_(command),
          settings_(settings),
          curve_(std::move(curve)),
          epoch_file_(std::move(epoch_file)),
          origin_(std::move(options), *this),
          beat_(loop_, [this] { on_beat(); }),
          head_(loop_, [this] { origin_.send_head(system_now()); }),
          give_up_(loop_, [this] { on_timeout(); }) {}

    int run() {
        bus::SocketOptions ingest;
        ingest.type = bus::SocketType::kPub;
        ingest.endpoint = settings_.broker.ingest;
        bus::SocketOptions repair;
        repair.type = bus::SocketType::kDealer;
        repair.endpoint = settings_.broker.repair;
        bus::Node node(
            loop_, {ingest, repair}, [this](std::vector<bus::Incoming> batch) { on_batch(batch); },
            curve_);
        if (const auto started = node.start(); !started) {
            complain(started.error().message);
            return kExitFailed;
        }
        node_ = &node;
        loop_.on_terminate([this] { interrupted_ = true, loop_.stop(); });
        origin_.start(system_now());
        on_beat();
        progress();
        {
            LineReader reader(
                loop_, STDIN_FILENO, kLineBytesMax,
                [this](std::vector<Line> lines) { on_lines(std::move(lines)); },
                [this] { on_end(); });
            reader_ = &reader;
            loop_.run();
            reader_ = nullptr;
        }
        node.stop();
        node_ = nullptr;
        return report();
    }

 private:
    void publish(Message message) override {
        const Mono now = BootClock::now();
        node_->send(kIngest, encode(message, now), now);
    }
    void send(protocol::Any message) override {
        const Mono now = BootClock::now();
        node_->send(kRepair, protocol::encode(message, now), now);
    }
    Result<> save_epoch(std::uint64_t epoch) override {
        const auto raised = raise_counter(epoch_file_, epoch);
        return raised ? Result<>() : Result<>(raised.error());
    }

    void on_batch(const std::vector<bus::Incoming>& batch) {
        for (const bus::Incoming& incoming : batch) {
            const Now now = system_now();
            const auto message = protocol::decode(incoming.frames, {incoming.sent, now.wall});
            if (message && std::holds_alternative<protocol::Refused>(*message)) {
                refused_ = std::get<protocol::Refused>(*message).why;
                return loop_.stop();
            }
            if (message) {
                const bool joined = origin_.state() == Origin::State::kJoined;
                const std::uint64_t before = origin_.undurable();
                origin_.on_protocol(*message, now);
                if (origin_.undurable() != before ||
                    joined != (origin_.state() == Origin::State::kJoined)) {
                    progress();
                }
            }
        }
        step();
    }

    void on_beat() {
        origin_.on_timer(system_now());
        beat_.set(origin_.deadline());
        step();
    }

    void on_lines(std::vector<Line> lines) {
        waiting_.push_back(std::move(lines));
        step();
    }

    void on_end() {
        input_ended_ = true;
        step();
    }

    /// Pushes what may be pushed; ends when all is done.
    void step() {
        if (origin_.state() == Origin::State::kConflict) {
            return loop_.stop();
        }
        // Before the broker has answered, the sockets may not be connected: what is sent then is
        // lost, to be asked for again.
        bool pushed = false;
        while (origin_.state() == Origin::State::kJoined && !waiting_.empty() &&
               origin_.undurable() < kWindow) {
            std::vector<Line>& lines = waiting_.front();
            if (next_line_ < lines.size()) {
                if (!push(lines[next_line_])) {
                    break;
                }
                ++next_line_;
                pushed = true;
                continue;
            }
            waiting_.pop_front();
            next_line_ = 0;
            reader_->taken();
        }
        if (pushed) {
            was_idle_ ? progress() : void();
            head_.set(system_now().mono + kHeadPause);
        }
        was_idle_ = origin_.undurable() == 0 && waiting_.empty();
        if (was_idle_ && input_ended_ && published_ == origin_durable() && joined_or_nothing()) {
            loop_.stop();
        }
    }

    [[nodiscard]] bool joined_or_nothing() const {
        return published_ == 0 || origin_.state() == Origin::State::kJoined;
    }
    [[nodiscard]] std::uint64_t origin_durable() const { return published_ - origin_.undurable(); }

    /// False: the ring is full; the same line again later.
    bool push(const Line& line) {
        if (line.text.find_first_not_of(" \t") == std::string::npos && !line.too_long) {
            return true;
        }
        if (!pending_) {
            Result<Message> message =
                line.too_long ? Result<Message>(Error{
                                    Errc::kTooLarge,
                                    "longer than " + std::to_string(kLineBytesMax) + " bytes"})
                              : parse_event_line(line.text, command_.state);
            if (!message) {
                bad(line.number, message.error().message);
                return true;
            }
            pending_ = std::move(*message);
        }
        const Now now = system_now();
        Message message = *pending_;
        message.age.as_of = AsOf{now.wall, now.mono};
        if (!origin_.push(std::move(message), now)) {
            return false;
        }
        pending_.reset();
        ++published_;
        return true;
    }

    void bad(std::uint64_t number, const std::string& what) {
        if (++bad_lines_ <= kBadLinesShown) {
            complain("line " + std::to_string(number) + ": " + clean(what));
        } else if (bad_lines_ == kBadLinesShown + 1) {
            complain("more bad lines follow; they are counted only");
        }
    }

    /// The broker has answered something: it has --timeout again.
    void progress() { give_up_.set(system_now().mono + command_.timeout); }

    void on_timeout() {
        const bool nothing_waits =
            origin_.state() == Origin::State::kJoined && origin_.undurable() == 0;
        if (nothing_waits) {
            return progress();  // It is the input that pauses.
        }
        timed_out_ = true;
        loop_.stop();
    }

    int report() {
        const std::uint64_t durable = origin_durable();
        if (origin_.state() == Origin::State::kConflict) {
            complain("another program publishes as '" + origin_.name() +
                     "': end it, or take another name with --origin");
        } else if (!refused_.empty()) {
            complain("the broker refuses this: " + refused_);
        } else if (timed_out_ && origin_.state() == Origin::State::kJoined) {
            complain("the broker at " + settings_.broker.repair +
                     " has not made everything durable within " +
                     format_duration(command_.timeout) +
                     "; sigmacast status, or the broker's log, tells why");
        } else if (timed_out_) {
            complain("the broker at " + settings_.broker.repair + " did not answer within " +
                     format_duration(command_.timeout) +
                     ". Is it running? ops/run --status tells.");
        }
        std::string line =
            "published " + std::to_string(published_) + ", durable " + std::to_string(durable);
        if (bad_lines_ > 0) {
            line += ", bad lines " + std::to_string(bad_lines_);
        }
        remark(line);
        const bool complete = input_ended_ && waiting_.empty() && !pending_ && !interrupted_;
        return complete && bad_lines_ == 0 && durable == published_ &&
                       origin_.state() != Origin::State::kConflict && !timed_out_ &&
                       refused_.empty()
                   ? kExitOk
                   : kExitFailed;
    }

    const PublishCommand& command_;
    const Settings& settings_;
    const bus::Curve curve_;
    const std::string epoch_file_;
    Loop loop_;
    bus::Node* node_ = nullptr;
    LineReader* reader_ = nullptr;
    Origin origin_;
    Timer beat_;
    Timer head_;
    Timer give_up_;
    std::deque<std::vector<Line>> waiting_;  // At most LineReader::kBatchesMax.
    std::size_t next_line_ = 0;
    std::optional<Message> pending_;  // Parsed, and refused by a full ring.
    std::uint64_t published_ = 0;
    std::uint64_t bad_lines_ = 0;
    bool was_idle_ = true;
    bool input_ended_ = false;
    bool interrupted_ = false;
    bool timed_out_ = false;
    std::string refused_;  // Why, in the broker's words.
};

/// Waits for the lock of a name, as long as another one holds it.
Result<FileLock> wait_for_lock(const std::string& path, const std::string& origin) {
    bool said = false;
    for (;;) {
        Result<FileLock> lock = FileLock::take(path);
        if (lock || lock.error().code != Errc::kConflict) {
            return lock;
        }
        if (!std::exchange(said, true)) {
            remark("Another sigmacast publish runs as " + origin + "; waiting for it to end.");
        }
        usleep(static_cast<useconds_t>(Micros(kLockRetry).count()));
    }
}

/// Where a user's lock and counter are kept when no configuration names a folder: the same from
/// whatever folder it is called. Empty: the environment names none.
std::string state_folder() {
    const auto absolute = [](const char* path) { return path && *path == '/'; };
    if (const char* state = std::getenv("XDG_STATE_HOME"); absolute(state)) {
        return std::string(state) + "/sigmacast";
    }
    const char* home = std::getenv("HOME");
    return absolute(home) ? std::string(home) + "/.local/state/sigmacast" : "";
}

}  // namespace

int run_publish(const PublishCommand& command) {
    const char* named = std::getenv("SIGMAVAULT_DATA_DIR");
    const bool configured = !command.config.empty() || (named && *named);
    const std::string data_dir =
        command.data_dir.empty() && !configured ? state_folder() : command.data_dir;
    if (data_dir.empty() && !configured) {
        complain("neither XDG_STATE_HOME nor HOME names a folder: give one with --data-dir");
        return kExitUsage;
    }
    std::vector<std::string> notes;
    const auto settings = load_settings(
        command.config, [](const char* name) -> const char* { return std::getenv(name); }, notes,
        [&](Settings& all) {
            if (!data_dir.empty()) {
                all.data_dir = data_dir;
            }
        });
    if (!settings) {
        complain(settings.error().message);
        return kExitUsage;
    }
    auto curve = read_curve(*settings, CurveRole::kPublish);
    if (!curve) {
        complain(curve.error().message);
        return kExitUsage;
    }
    log_start("sigmacast", "warn");
    const std::string origin = command.origin.empty() ? "publish@" + host_name() : command.origin;
    if (!good_origin(origin)) {
        complain(
            "--origin: a name of 1 to 128 bytes without spaces and control characters is needed");
        return kExitUsage;
    }
    // As the producer does; where it cannot be made, taking the lock says so.
    std::error_code ignored;
    std::filesystem::create_directories(settings->data_dir, ignored);
    const std::string base = settings->data_dir + "/" + file_name(origin);
    const auto lock = wait_for_lock(base + ".lock", origin);
    if (!lock) {
        complain(lock.error().message + " (the data folder is " + settings->data_dir +
                 "; --data-dir names another)");
        return kExitFailed;
    }
    const auto epoch = next_epoch(base + ".epoch", system_now().wall);
    if (!epoch) {
        complain(epoch.error().message);
        return kExitFailed;
    }
    OriginOptions options;
    options.name = origin;
    options.instance = Random::from_system().hex(8);
    options.epoch = *epoch;
    return Publisher(command, *settings, std::move(*curve), std::move(options), base + ".epoch")
        .run();
}

}  // namespace sigmacast::cli
