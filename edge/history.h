// The events of the recent past, so that a client that was away gets what it missed: a ring of what
// the feed brought, and pages of the broker's log for those who were away for longer.
//
//     history.add({pos, stream, frame})           every event, as it comes
//     history.ring_after(pos), page_after(pos)    what follows a position
//     history.aim(positions that wait, ..)        what to ask the broker
//     history.on_answer(..), add_page(..)         its answer
//
// The ring is complete from ring_start() on. Pages of the log are shared by everyone who is
// catching up; those that were used last are kept. One request is under way at a time, whatever the
// number of clients: the scan begins at the lowest position that is wanted and that no page has,
// goes up, and begins again for those who came behind it. So a crowd that reads as fast as pages
// come costs the broker the pages of its log once or twice; and one of unequal speed, whose places
// are further apart than what is kept, kPagesAtOnce and then one each kPageEach, of all clients of
// this edge together.
//
// Pure: no socket, no clock. Runs on: the loop. Bounds: kRingBytesMax, kPagesBytesMax, of text and
// data; encodings that clients wanted besides (encoding.h) come on top, at most as much again. It
// knows nothing of sessions: who has got what is resume.h's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/message.h"
#include "common/protocol.h"
#include "common/random.h"
#include "edge/render.h"

namespace sigmacast::edge {

class History {
 public:
    static constexpr std::size_t kRingBytesMax = 8u << 20;
    static constexpr std::size_t kPagesBytesMax = 16u << 20;  // Or one page.
    static constexpr std::size_t kPagesMax = 64;
    static constexpr std::size_t kEntryOverheadBytes = 96;
    static constexpr std::size_t kPagesAtOnce = 256;  // Requests without a pause; then
    static constexpr Millis kPageEach{20};            // so many, which come back as time passes.
    static constexpr Millis kRetryMin{250};  // Doubles up to kRetryMax, plus up to half at random.
    static constexpr Millis kRetryMax{4'000};
    static constexpr int kTriesMax = 6;  // While the broker is there; then those who wait are told.

    /// An event, or a note in the place of one.
    struct Entry {
        std::uint64_t pos = 0;
        std::uint64_t seq = 0;
        const Stream* stream = nullptr;
        mutable FramePtr frame;
        /// The frame is as it was sent live: to be marked (mark_replay()) once it is sent again.
        mutable bool as_live = false;
        std::size_t bytes = 0;  // add()'s.
    };
    using Ring = std::multimap<std::uint64_t, Entry>;  // By pos; of one pos as they came.
    /// Everything after `from`, up to `to`.
    struct Page {
        std::uint64_t from = 0;
        std::uint64_t to = 0;
        std::vector<StreamFloor> floors;
        std::vector<Entry> entries;    // By pos.
        std::uint64_t unreadable = 0;  // Rows that were left out.
        std::size_t bytes = 0;
        std::uint64_t used = 0;  // The higher, the later.
    };
    explicit History(Random random, std::size_t ring_bytes_max = kRingBytesMax)
        : random_(std::move(random)), ring_bytes_max_(ring_bytes_max) {}

    /// A snapshot: what was between is not here. The ring is complete from `pos` on.
    void reset(std::string epoch, std::uint64_t pos);
    /// What the feed brought; mostly, not always, in the order of pos.
    void add(Entry entry);

    [[nodiscard]] std::uint64_t ring_start() const { return start_; }
    [[nodiscard]] std::size_t ring_bytes() const { return bytes_; }
    /// Of the ring: the entries, by pos, and the first one after `pos`.
    [[nodiscard]] const Ring& ring() const { return ring_; }
    [[nodiscard]] Ring::const_iterator ring_after(std::uint64_t pos) const {
        return ring_.upper_bound(pos);
    }
    /// The page that goes on after `pos`; null: it is to be asked for. Until the next add_page().
    [[nodiscard]] const Page* page_after(std::uint64_t pos);

    /// Where the newest page ends; 0: there is none.
    [[nodiscard]] std::uint64_t scan_end() const { return scan_end_; }

    /// What to send to the broker, where anything is due. `wanted`: positions below ring_start()
    /// that no page goes on after; `probe`: the log's position alone would do.
    std::optional<protocol::HistoryRequest> aim(const std::vector<std::uint64_t>& wanted,
                                                bool probe, Now now);
    /// Whether it is the answer that was waited for; then its page is to be added, where it is of
    /// this epoch.
    bool on_answer(const protocol::History& answer, Now now);
    void add_page(Page page);

    /// A request has been repeated in vain, and no more is asked until start_over(): the broker is
    /// back, or those who wait have been told.
    [[nodiscard]] bool given_up() const { return tries_ >= kTriesMax; }
    void start_over();
    /// The newest request; an answer to a later one knows what was so before it.
    [[nodiscard]] std::uint64_t last_id() const { return id_; }
    /// When aim() wants to be called again.
    [[nodiscard]] std::optional<Mono> deadline() const { return again_; }
    [[nodiscard]] std::uint64_t requests() const { return requests_; }

 private:
    [[nodiscard]] std::uint64_t next_of(const std::vector<std::uint64_t>& wanted) const;
    void forget_pages();

    Random random_;
    const std::size_t ring_bytes_max_;
    std::string epoch_;
    Ring ring_;
    std::size_t bytes_ = 0;
    std::uint64_t start_ = 0;
    std::map<std::uint64_t, Page> pages_;  // By `from`; they may overlap.
    std::size_t pages_bytes_ = 0;
    std::uint64_t scan_end_ = 0;
    std::uint64_t uses_ = 0;

    std::uint64_t id_ = 0;
    std::uint64_t first_id_ = 0;  // Of the request that is repeated.
    bool under_way_ = false;
    bool for_page_ = false;  // The one that is under way.
    int tries_ = 0;
    std::optional<Mono> again_;  // When it is repeated; or when the next one may be sent.
    Mono paid_until_{};          // Of requests for pages, at one each kPageEach.
    std::uint64_t requests_ = 0;
};

}  // namespace sigmacast::edge
