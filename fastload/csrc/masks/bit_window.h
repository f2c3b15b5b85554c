// A part of a mask as bits, in which shapes are drawn before they are added to the mask.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace fastload {

// Pixels of a mask, from the first up to the last, exclusive.
struct Window {
    int x0, y0, x1, y1;

    bool empty() const { return x0 >= x1 || y0 >= y1; }
    Window within(const Window& other) const {
        return {std::max(x0, other.x0), std::max(y0, other.y0), std::min(x1, other.x1), std::min(y1, other.y1)};
    }
    // The smallest window around both.
    Window with(const Window& other) const {
        if (empty()) return other;
        return {std::min(x0, other.x0), std::min(y0, other.y0), std::max(x1, other.x1), std::max(y1, other.y1)};
    }
};

// Bytes of a row of a mask: one bit for each pixel, the lowest first.
inline size_t mask_row_bytes(int width) { return (size_t(width) + 7) / 8; }

constexpr uint64_t bits_below(int bit) { return (uint64_t{1} << bit) - 1; }  // 0 to 63

// The bits of a window, in words of 64 columns that are those of the whole mask.
class BitWindow {
public:
    void open(const Window& window) {
        window_ = window;
        first_ = window.x0 / 64;
        words_ = (window.x1 + 63) / 64 - first_;
        bits_.assign(size_t(words_) * size_t(window.y1 - window.y0), 0);
    }
    const Window& window() const { return window_; }

    // Inverts a pixel and all below it, once `spread` is called. x must be in the window; a y above it means its first
    // row, a y below it changes nothing.
    void toggle(int x, int64_t y) {
        if (y < window_.y1) row(int(std::max<int64_t>(y, window_.y0)))[x / 64 - first_] ^= uint64_t{1} << x % 64;
    }
    void spread() {
        for (int y = window_.y0 + 1; y < window_.y1; ++y) {
            const uint64_t* const above = row(y - 1);
            uint64_t* const here = row(y);
            for (int k = 0; k < words_; ++k) here[k] ^= above[k];
        }
    }

    void set(int x, int y) { row(y)[x / 64 - first_] |= uint64_t{1} << x % 64; }
    // Sets or clears the pixels from `begin` to `end` of a line, which may lie outside of the window.
    void fill(int y, int begin, int end, bool value) {
        begin = std::max(begin, window_.x0), end = std::min(end, window_.x1);
        if (y < window_.y0 || y >= window_.y1 || begin >= end) return;
        uint64_t* const words = row(y);
        for (int k = begin / 64; k <= (end - 1) / 64; ++k) {
            uint64_t changed = ~uint64_t{0};
            if (k == begin / 64) changed &= ~bits_below(begin % 64);
            if (k == end / 64) changed &= bits_below(end % 64);
            value ? words[k - first_] |= changed : words[k - first_] &= ~changed;
        }
    }

    // Adds its pixels to a mask whose rows have `row_bytes`.
    void add_to(uint8_t* mask, size_t row_bytes) const {
        change(mask, row_bytes, window_, [](uint64_t there, uint64_t here) { return there | here; });
    }
    // Clears the pixels of a mask in `part`, which lies in the window, that are not set here.
    void keep_in(uint8_t* mask, size_t row_bytes, const Window& part) const {
        change(mask, row_bytes, part, [](uint64_t there, uint64_t here) { return there & here; });
    }

private:
    uint64_t* row(int y) { return bits_.data() + size_t(y - window_.y0) * size_t(words_); }
    const uint64_t* row(int y) const { return bits_.data() + size_t(y - window_.y0) * size_t(words_); }

    template <class Change>
    void change(uint8_t* mask, size_t row_bytes, const Window& part, Change combined) const {
        const int begin = part.x0 / 64, end = (part.x1 + 63) / 64;
        const int whole = std::min(end, int(row_bytes / 8));
        for (int y = part.y0; y < part.y1; ++y) {
            uint8_t* const to = mask + row_bytes * size_t(y);
            const uint64_t* const from = row(y) - first_;
            const auto change_word = [&](int k, size_t bytes) {
                uint64_t word = 0;
                std::memcpy(&word, to + 8 * size_t(k), bytes);
                word = combined(word, from[k]);
                std::memcpy(to + 8 * size_t(k), &word, bytes);
            };
            for (int k = begin; k < whole; ++k) change_word(k, 8);
            for (int k = std::max(begin, whole); k < end; ++k) change_word(k, row_bytes - 8 * size_t(k));
        }
    }

    Window window_{};
    int first_ = 0, words_ = 0;
    std::vector<uint64_t> bits_;
};

}  // namespace fastload
