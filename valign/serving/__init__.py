"""Request to answer, without Ray or HTTP: what may be asked, who may ask, and what is answered."""
