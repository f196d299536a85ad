// Who is stale, and why. For each (origin, poll) it holds the newest report and judges the age of
// its values from reports, and from silence: a good report makes live, a failed one stale (or down,
// where there never was a value), 2 x interval + 2 s without a report is POLL_SILENT, 3 s without a
// head of the origin is PRODUCER_SILENT. What silence made stale only a report makes live again.
// The whole table is in common/EVENTS.md, "The broker".
//
// State that no poll feeds is judged by topic, as a poll named state_poll(topic): live while its
// origin's heads vouch for it (common/WIRE.md, "State that no poll feeds"), else PRODUCER_SILENT.
//
// A sign of life counts from when it was `sent`: what waited in front of a frozen broker, or in a
// cut network, for as long as a silence may last makes nothing live. A good report counts from its
// answer: one that is sent again does not stretch the silence after it.
//
// Pure: `now` goes in, changes come out, one for each change of quality, reason or source. No
// thread of its own.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/message.h"
#include "common/protocol.h"

namespace sigmacast::broker {

inline constexpr Millis kHeadSilence{3000};
inline constexpr Millis kPollSilenceExtra{2000};
/// Polls of one origin; more are not watched. (State that no poll feeds always is: ingest.h bounds
/// its topics.)
inline constexpr std::size_t kPollsMax = 256;

/// The silence after which a poll of this interval is not believed to run any more.
inline Millis poll_silence(Millis interval) {
    return 2 * interval + kPollSilenceExtra;
}

struct Change {
    std::string origin;
    std::string poll;
    std::string topic;
    Age age;
};

class Freshness {
 public:
    /// Takes what the database held: every value is stale, BROKER_RESTARTED, with its as_of kept,
    /// until a good report.
    std::vector<Change> on_start(std::vector<PollState> polls, Now now);
    /// An instance has introduced itself: its polls are watched from now on.
    void declare(const std::string& origin, const std::vector<protocol::DeclaredPoll>& polls,
                 Now now);
    /// The origin vouched for a topic's state that no poll feeds, by a head or by a value, made at
    /// `as_of`.
    std::optional<Change> vouch(const std::string& origin, const std::string& topic,
                                const std::optional<AsOf>& as_of, Mono sent, Now now);
    /// Another instance owns the origin: it has vouched for nothing yet.
    std::vector<Change> on_new_owner(const std::string& origin);
    std::optional<Change> on_report(const std::string& origin, const Report& report,
                                    std::uint64_t seq, Mono sent, Now now);
    void on_head(const std::string& origin, Mono sent, Now now);
    /// The silence that is complete now of a poll as others know it, whether or not on_tick() has
    /// told of it: what was heard since may wait in a commit.
    [[nodiscard]] std::optional<std::string_view> silence_now(const PollState& shown,
                                                              Now now) const;
    /// How a value of that answer is by what is known of its poll, where that is stale and the
    /// value no newer; nullopt: as it says itself.
    [[nodiscard]] std::optional<Age> stale_age(const std::string& origin, const std::string& poll,
                                               const std::optional<AsOf>& as_of) const;
    /// How a value is when it arrives that was sent then; nullopt: live. It is not where
    /// stale_age() says so (a silence only a report ends: nobody would tell that it lasts), nor
    /// where whatever was heard of its poll since says nothing of now.
    [[nodiscard]] std::optional<Age> age_of_late_value(const std::string& origin,
                                                       const std::string& poll,
                                                       const std::optional<AsOf>& as_of, Mono sent,
                                                       Now now) const;
    std::vector<Change> on_tick(Now now);
    /// When the next silence would be complete.
    [[nodiscard]] std::optional<Mono> deadline() const;

    /// Null where the poll is not known. Valid until the next call.
    [[nodiscard]] const PollState* find(const std::string& origin, const std::string& poll) const;
    [[nodiscard]] std::vector<PollState> of_origin(const std::string& origin) const;

 private:
    struct Poll {
        PollState state;
        /// The last report (if it was good, its answer) or vouching, or when watching began.
        Mono heard;
    };
    struct Origin {
        Mono head;  // The last head, or when watching began.
        std::map<std::string, Poll> polls;
    };

    Origin& origin_of(const std::string& name, Now now);
    [[nodiscard]] const Poll* known_poll(const std::string& origin, const std::string& poll) const;
    static Poll* poll_of(Origin& origin, const std::string& origin_name, const std::string& poll,
                         Now now);
    static void heard(Origin& origin, Poll& poll, Mono sent);
    /// Where the origin's last head, and the poll's last report or vouching, were sent then.
    static std::optional<std::string_view> silence_in(Mono head, Mono heard, const PollState& state,
                                                      Now now);
    static std::optional<Change> settle(const Origin& origin, Poll& poll, Age age, Now now);
    static std::optional<Mono> silent_at(Mono heard, const PollState& state);
    static std::string_view silence_of(const PollState& state);
    static std::optional<Change> set(PollState& state, Age age);
    static std::optional<Change> fail(PollState& state, std::string_view reason,
                                      std::string_view source);

    std::map<std::string, Origin> origins_;
};

}  // namespace sigmacast::broker
