select bidder, count(*) as bid_count, window_start, window_end from bid_arrival
group by tumble(interval '10 seconds'), bidder
