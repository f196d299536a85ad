#include "edge/history.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace sigmacast::edge {
namespace {

std::size_t cost(const History::Entry& entry) {
    return History::kEntryOverheadBytes + entry.frame->size();
}

bool before(std::uint64_t pos, const History::Entry& entry) {
    return pos < entry.pos;
}

}  // namespace

void History::reset(std::string epoch, std::uint64_t pos) {
    if (epoch != epoch_) {
        window_.clear();
        window_bytes_ = 0;
    }
    epoch_ = std::move(epoch);
    ring_.clear();
    bytes_ = 0;
    start_ = pos;
    start_over();
}

void History::add(Entry entry) {
    if (entry.pos <= start_) {
        return;  // It is in the log, for those who need it.
    }
    bytes_ += cost(entry);
    auto at = ring_.end();
    while (at != ring_.begin() && std::prev(at)->pos > entry.pos) {
        --at;  // A hole that was filled: its stream is behind the others.
    }
    ring_.insert(at, std::move(entry));
    while (bytes_ > ring_bytes_max_) {
        bytes_ -= cost(ring_.front());
        start_ = ring_.front().pos;
        ring_.pop_front();
    }
}

std::deque<History::Entry>::const_iterator History::ring_after(std::uint64_t pos) const {
    return std::upper_bound(ring_.begin(), ring_.end(), pos, before);
}

const History::Page* History::page_after(std::uint64_t pos) const {
    const auto found =
        std::upper_bound(window_.begin(), window_.end(), pos,
                         [](std::uint64_t at, const Page& page) { return at < page.to; });
    return found != window_.end() && found->from <= pos ? &*found : nullptr;
}

std::optional<protocol::HistoryRequest> History::aim(const std::vector<std::uint64_t>& wanted,
                                                     bool probe, Now now) {
    if (wanted.empty() && !probe) {
        start_over();
        return std::nullopt;
    }
    if (given_up() || (again_ && now.mono < *again_)) {
        return std::nullopt;
    }
    if (under_way_ && ++tries_ >= kTriesMax) {
        under_way_ = false;
        again_.reset();
        return std::nullopt;
    }
    under_way_ = false;
    again_.reset();
    std::uint64_t from = sequence::kSeqMax;  // Nothing is beyond it: the answer is a position.
    if (!wanted.empty()) {
        const std::uint64_t reached = window_end();
        std::uint64_t lowest = sequence::kSeqMax;
        for (const std::uint64_t each : wanted) {
            lowest = std::min(lowest, each);
            from = each >= reached ? std::min(from, each) : from;
        }
        if (from == sequence::kSeqMax) {  // All are behind: another round.
            if (round_ && now.mono < *round_ + kRoundMin && tries_ == 0) {
                if (!probe) {
                    again_ = *round_ + kRoundMin;
                    return std::nullopt;
                }
            } else {
                round_ = now.mono;
                from = lowest;
            }
        } else if (window_.empty()) {
            round_ = now.mono;
        }
    }
    const Millis wait = std::min(kRetryMin * (1 << tries_), kRetryMax);
    again_ = now.mono + wait + random_.upto(wait / 2);
    under_way_ = true;
    for_page_ = from != sequence::kSeqMax;
    ++requests_;
    first_id_ = tries_ == 0 ? id_ + 1 : first_id_;
    return protocol::HistoryRequest{++id_, epoch_, from};
}

bool History::on_answer(const protocol::History& answer, Now now) {
    if (!under_way_ || answer.id < first_id_ || answer.id > id_) {
        return false;
    }
    start_over();
    if (for_page_ && answer.to <= answer.from) {
        again_ = now.mono + kRetryMin;  // The log has no more than we were sent.
    }
    return true;
}

void History::add_page(Page page) {
    if (page.to <= page.from) {
        return;
    }
    if (!window_.empty() && window_.back().to != page.from) {
        window_.clear();
        window_bytes_ = 0;
    }
    for (const Entry& entry : page.entries) {
        page.bytes += cost(entry);
    }
    window_bytes_ += page.bytes;
    window_.push_back(std::move(page));
    while (window_.size() > 1 &&
           (window_bytes_ > kWindowBytesMax || window_.size() > kWindowPagesMax)) {
        window_bytes_ -= window_.front().bytes;
        window_.pop_front();
    }
}

void History::start_over() {
    under_way_ = false;
    again_.reset();
    tries_ = 0;
}

}  // namespace sigmacast::edge
