// A key-value server as a good Go developer writes it in an afternoon: gin for HTTP, bbolt for the disk.
//
// Writes go through db.Batch, which is bbolt's group commit: concurrent callers share one transaction and one sync.
// With -relaxed the database is opened with NoSync, and a ticker syncs it every second;
// bbolt knows no other way to answer before the sync.
package main

import (
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	bolt "go.etcd.io/bbolt"
)

type operation struct {
	Op    string          `json:"op"`
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

func open(path string, options *bolt.Options) *bolt.DB {
	db, err := bolt.Open(path, 0o600, options)
	if err != nil {
		log.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists([]byte("kv"))
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	return db
}

func main() {
	data := flag.String("data", ".", "folder for the database")
	listen := flag.String("listen", "127.0.0.1:0", "address")
	relaxed := flag.Bool("relaxed", false, "sync once a second instead of before each answer")
	flag.Parse()
	if err := os.MkdirAll(*data, 0o700); err != nil {
		log.Fatal(err)
	}
	db := open(filepath.Join(*data, "data.db"), &bolt.Options{NoSync: *relaxed, FreelistType: bolt.FreelistMapType})
	if *relaxed {
		go func() {
			for range time.Tick(time.Second) {
				if err := db.Sync(); err != nil {
					log.Fatal(err)
				}
			}
		}()
	}
	bucket := []byte("kv")

	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.Use(gin.Recovery())

	router.GET("/kv/:key", func(c *gin.Context) {
		var value []byte
		err := db.View(func(tx *bolt.Tx) error {
			if found := tx.Bucket(bucket).Get([]byte(c.Param("key"))); found != nil {
				value = append([]byte{}, found...)
			}
			return nil
		})
		switch {
		case err != nil:
			c.Status(http.StatusInternalServerError)
		case value == nil:
			c.Status(http.StatusNotFound)
		default:
			c.Data(http.StatusOK, "application/octet-stream", value)
		}
	})
	router.PUT("/kv/:key", func(c *gin.Context) {
		value, err := io.ReadAll(c.Request.Body)
		if err == nil {
			err = db.Batch(func(tx *bolt.Tx) error {
				return tx.Bucket(bucket).Put([]byte(c.Param("key")), value)
			})
		}
		if err != nil {
			c.Status(http.StatusInternalServerError)
			return
		}
		c.Status(http.StatusNoContent)
	})
	router.POST("/batch", func(c *gin.Context) {
		var batch struct {
			Operations []operation `json:"operations"`
		}
		if err := c.BindJSON(&batch); err != nil {
			return
		}
		err := db.Batch(func(tx *bolt.Tx) error {
			for _, operation := range batch.Operations {
				if err := tx.Bucket(bucket).Put([]byte(operation.Key), operation.Value); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			c.Status(http.StatusInternalServerError)
			return
		}
		c.JSON(http.StatusOK, gin.H{"written": len(batch.Operations)})
	})
	router.GET("/kv", func(c *gin.Context) {
		limit, err := strconv.Atoi(c.DefaultQuery("limit", "100"))
		if err != nil {
			c.Status(http.StatusBadRequest)
			return
		}
		items := make([]gin.H, 0, limit)
		err = db.View(func(tx *bolt.Tx) error {
			cursor := tx.Bucket(bucket).Cursor()
			for key, value := cursor.Seek([]byte(c.Query("start"))); key != nil && len(items) < limit; key, value = cursor.Next() {
				items = append(items, gin.H{"key": string(key), "size": len(value)})
			}
			return nil
		})
		if err != nil {
			c.Status(http.StatusInternalServerError)
			return
		}
		c.JSON(http.StatusOK, gin.H{"items": items})
	})

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	os.Stdout.WriteString("listening on http://" + listener.Addr().String() + "\n")
	log.Fatal(http.Serve(listener, router))
}
