select bidder, count(*) as bid_count, window_start, window_end from bid
group by session(interval '10 seconds'), bidder
