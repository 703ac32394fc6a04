"""Drive the program from the first start to the last, with a picture of each step."""
